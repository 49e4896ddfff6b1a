"""A checkpoint is replaced as a whole or stays as it was, on a full disk too."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from conftest import save, shaken, tiny

from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.errors import UserError


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "where", ["os.fsync", "shutil.copyfile", "pathlib.Path.write_text", "pathlib.Path.rename"]
)
@pytest.mark.parametrize("before", ["nothing", "a checkpoint"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, where, before):
    save(shaken(tiny(vocab=61)), tmp_path / "source")
    source = Checkpoint.open(tmp_path / "source")
    (tmp_path / "out").mkdir()
    if before == "a checkpoint":
        save(shaken(tiny(vocab=61), seed=9), tmp_path / "out" / "student")
    content = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(UserError, match="Could not write") as caught:
            write_checkpoint(
                tmp_path / "out" / "student",
                source.architecture,
                source.tensor,
                source=source,
                config=source.config,
            )
    assert "No space left" in caught.value.got
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == content
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == (
        [] if before == "nothing" else ["student"]
    )


def test_a_checkpoint_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    source = Checkpoint.open(save(shaken(tiny(vocab=61)), tmp_path / "source"))
    save(shaken(tiny(vocab=61), seed=9), tmp_path / "student")
    old = Checkpoint.open(tmp_path / "student").fingerprint
    rename = Path.rename
    monkeypatch.setattr(
        Path,
        "rename",
        lambda self, to: full() if self.name.endswith(".writing") else rename(self, to),
    )
    with pytest.raises(UserError, match="Could not write"):
        write_checkpoint(
            tmp_path / "student",
            source.architecture,
            source.tensor,
            source=source,
            config=source.config,
        )
    assert Checkpoint.open(tmp_path / "student").fingerprint == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "student"]


def test_a_checkpoint_is_replaced_as_a_whole_and_nothing_else_ever_is(tmp_path):
    source = Checkpoint.open(save(shaken(tiny(vocab=61)), tmp_path / "source"))

    def write(name):
        write_checkpoint(
            tmp_path / name, source.architecture, source.tensor, source=source, config=source.config
        )

    save(shaken(tiny("M-", vocab=61)), tmp_path / "student")
    (tmp_path / "student" / "stale.txt").write_text("of the old one")
    (tmp_path / "empty").mkdir()
    for name in ("student", "empty", "new"):
        write(name)
        assert Checkpoint.open(tmp_path / name).fingerprint == source.fingerprint
        assert not (tmp_path / name / "stale.txt").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("notes")
    for name in ("thesis", "file"):
        with pytest.raises(UserError, match="not a checkpoint, so it is not replaced"):
            write(name)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "notes"
    (tmp_path / "link").symlink_to(tmp_path / "student")
    shutil.rmtree(tmp_path / "empty")
    write("link")
    assert (tmp_path / "link").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "file",
        "link",
        "new",
        "source",
        "student",
        "thesis",
    ]


def test_writing_onto_the_source_itself(tmp_path):
    source = Checkpoint.open(save(shaken(tiny(vocab=61)), tmp_path / "ckpt"))
    (tmp_path / "ckpt" / "tokenizer_files").mkdir()
    before = source.fingerprint
    write_checkpoint(
        tmp_path / "ckpt", source.architecture, source.tensor, source=source, config=source.config
    )
    again = Checkpoint.open(tmp_path / "ckpt")
    assert (again.fingerprint, again.has_tokenizer) == (before, True)
