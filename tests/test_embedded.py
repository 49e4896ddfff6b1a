"""The embedded teacher, whose weights ship compressed: unpacked once, whole or not at all."""

import zlib
from hashlib import sha256

import pytest

from minipuzzle.embedded import checkpoint_path, teacher
from minipuzzle.errors import UserError

WEIGHTS = "2116181c"


@pytest.fixture
def unpack(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return teacher.teacher_path.__wrapped__


def test_the_folder_is_what_was_shipped(unpack, monkeypatch):
    folder = unpack()
    shipped = {file.name for file in teacher.SHIPPED.iterdir()}
    assert {file.name for file in folder.iterdir()} == shipped - {teacher.PACKED} | {
        "model.safetensors"
    }
    assert sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:8] == WEIGHTS
    monkeypatch.setattr(zlib, "decompress", lambda data: pytest.fail("unpacked twice"))
    assert unpack() == folder


def test_nothing_half_unpacked_is_taken(unpack, monkeypatch, tmp_path):
    """A full disk says so, leaves nothing, and the next try goes well."""

    def full(data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as during:
        during.setattr(zlib, "decompress", full)
        with pytest.raises(UserError, match="unpack") as error:
            unpack()
    assert error.value.got == "No space left on device"
    assert "XDG_CACHE_HOME" in error.value.next
    assert list((tmp_path / "cache/minipuzzle").iterdir()) == []
    assert (unpack() / "model.safetensors").is_file()


def test_only_its_name_is_the_teacher(tmp_path):
    assert checkpoint_path(tmp_path / "embedded") == tmp_path / "embedded"
