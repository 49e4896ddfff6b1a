"""Files that are not what they say: broken and hostile safetensors, names and links out of the
folder, and what travels.
"""

import json
import os

import pytest
import torch
from conftest import save, shaken, tiny
from safetensors.torch import load_file, save_file

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint, read_config
from minipuzzle.errors import UserError
from minipuzzle.surgery import cut

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def test_huge_and_deep_json_beside_it(tmp_path):
    folder = save(shaken(tiny("M-", vocab=61)), tmp_path / "a")
    config = (folder / "config.json").read_text()
    for text, says in {
        "[" * 100_000: "nested too deeply",
        '{"a": ' + "9" * 5000 + "}": "not valid JSON",
        "\ufeff{}": "not valid JSON",
    }.items():
        (folder / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=says):
            read_config(folder)
    (folder / "config.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match="not text"):
        read_config(folder)
    os.truncate(folder / "config.json", 1 << 33)
    with pytest.raises(UserError, match="too large"):
        read_config(folder)
    (folder / "config.json").write_text(config)
    (folder / SINGLE).rename(folder / "b.safetensors")
    for text in (
        "[" * 100_000,
        '{"weight_map": []}',
        '{"weight_map": null}',
        '{"weight_map": "b.safetensors"}',
        "[]",
    ):
        (folder / INDEX).write_text(text)
        with pytest.raises(UserError, match=r"index\.json"):
            Checkpoint.open(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../a.safetensors",
        "/a.safetensors",
        "..",
        ".",
        "",
        "a/../a.safetensors",
        "b\\a.safetensors",
        "a\0.safetensors",
        "a.bin",
        "C:a.safetensors",
        "~",
        "a" * 300 + ".safetensors",
        None,
        5,
        [],
        ["a.safetensors"],
        {"a": 1},
        ".a.safetensors",
        "\x1b[2J.safetensors",
    ],
)
def test_names_of_shards_are_checked_before_they_become_paths(name, tmp_path):
    folder = save(shaken(tiny("M-", vocab=61)), tmp_path / "a")
    (folder / SINGLE).rename(tmp_path / "a.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(
        UserError, match="The index names a file outside of the checkpoint"
    ) as caught:
        Checkpoint.open(folder)
    assert str(caught.value).isascii()


@pytest.mark.parametrize("name", [SINGLE, "config.json", INDEX])
def test_links_out_of_the_folder_are_not_read(name, tmp_path):
    folder = save(shaken(tiny("M-", vocab=61)), tmp_path / "a")
    if name == INDEX:
        (folder / SINGLE).rename(folder / "x.safetensors")
        names = load_file(folder / "x.safetensors")
        (folder / INDEX).write_text(
            json.dumps({"weight_map": dict.fromkeys(names, "x.safetensors")})
        )
    first = Checkpoint.open(folder).fingerprint
    (folder / name).rename(folder / "inside")
    (folder / name).symlink_to("inside")
    assert Checkpoint.open(folder).fingerprint == first
    (tmp_path / "whole").symlink_to(folder)
    assert Checkpoint.open(tmp_path / "whole").fingerprint == first
    (folder / "inside").rename(tmp_path / "outside")
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=f"{name} is a link to a file outside"):
        Checkpoint.open(folder)


def hub(folder, cache):
    """The layout of Hugging Face's cache."""
    blobs, snapshot = (
        cache / "models--us--m" / "blobs",
        cache / "models--us--m" / "snapshots" / "0a1b",
    )
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / f"{number:040}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040}")
    return snapshot


def test_hugging_faces_cache_is_read_and_copied_from(tmp_path):
    folder = save(shaken(tiny("M-M-")), tmp_path / "a")
    (folder / "LICENSE").write_text("ours")
    want = Checkpoint.open(folder).fingerprint
    snapshot = hub(folder, tmp_path / "hub")
    parent = Checkpoint.open(snapshot)
    assert (parent.fingerprint, parent.notes) == (want, ())
    cut(parent, Selection(blocks=({}, {}, None, {})), tmp_path / "student")
    assert (tmp_path / "student" / "LICENSE").read_text() == "ours"
    assert not (tmp_path / "student" / "tokenizer.json").is_symlink()
    other = tmp_path / "hub" / "models--them--n" / "blobs"
    other.mkdir(parents=True)
    (other / "x").write_text("theirs")
    (snapshot / "NOTICE").symlink_to(other / "x")
    (snapshot / "LICENSE.txt").symlink_to(snapshot.parent.parent / "refs")
    (note,) = Checkpoint.open(snapshot).notes
    assert "NOTICE is a link out" in note
    (snapshot.parent.parent / "blobs").rename(tmp_path / "elsewhere")  # so a download never is
    (snapshot.parent.parent / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link to a file outside"):
        Checkpoint.open(snapshot)


TRAVEL = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENCE.md",
    "License-MIT",
    "NOTICE",
    "Notice.txt",
    "COPYING",
    "USE_POLICY.md",
    "preprocessor_config.json",
    "additional_chat_templates/tool_use.jinja",
)
STAY = (
    "tokenizer.py",
    "tokenizer.pkl",
    "tokenizer.tar.gz",
    "tokenizer.secret",
    "tokenizer.json.bak",
    "vocab.bin",
    "vocab.sh",
    "vocab.zip",
    "chat_template.py",
    "LICENSE.py",
    "LICENSE.pkl",
    "NOTICE.zip",
    "optimizer.pt",
    "trainer_state.json",
    "modeling_x.py",
    ".env",
    "README.md",
    "additional_chat_templates/x.py",
    "tokenizer_files/x",
    "additional_chat_templates/deep/x.jinja",
    "model.py",
    "licenses/x.txt",
)


def test_what_travels_with_a_cut(tmp_path):
    folder = save(shaken(tiny("M-M-", vocab=61)), tmp_path / "a", tokenizer=False)
    for name in (*TRAVEL, *STAY):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"of {name}")
    (tmp_path / "passwd").write_text("root:x:0:0")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.jinja").write_text("secret")
    for name in ("sentencepiece.model", "COPYING.txt", "additional_chat_templates/s.jinja"):
        (folder / name).symlink_to(tmp_path / "passwd")
    os.mkfifo(folder / "processor_config.json")
    parent = Checkpoint.open(folder)
    cut(parent, Selection(blocks=({}, {}, None, {})), tmp_path / "student")
    found = {
        str(p.relative_to(tmp_path / "student"))
        for p in (tmp_path / "student").rglob("*")
        if p.is_file()
    }
    assert found == {*TRAVEL, "config.json", SINGLE}
    assert all((tmp_path / "student" / name).read_text() == f"of {name}" for name in TRAVEL)
    assert len(parent.notes) == 3
    (folder / "additional_chat_templates").rename(tmp_path / "templates")
    (folder / "additional_chat_templates").symlink_to(tmp_path / "out")
    cut(parent, Selection(blocks=({}, {}, None, {})), tmp_path / "again")
    assert not (tmp_path / "again" / "additional_chat_templates").exists()


def refuse(monkeypatch, path):
    """Let the system refuse to open one file, as for a user who may not read it (tests may run as
    root, who may).
    """
    real, access = type(path).open, os.access

    def opening(self, *args, **kwargs):
        if self.name == path.name:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(type(path), "open", opening)
    monkeypatch.setattr(
        os, "access", lambda p, mode: os.path.basename(p) != path.name and access(p, mode)
    )


@pytest.mark.parametrize("name", ["config.json", SINGLE, INDEX, "tokenizer.json"])
def test_files_that_may_not_be_read(name, tmp_path, monkeypatch):
    folder = save(shaken(tiny("M-", vocab=61)), tmp_path / "a")
    if name == INDEX:
        (folder / SINGLE).rename(folder / "x.safetensors")
        (folder / INDEX).write_text("{}")
    refuse(monkeypatch, folder / name)
    with pytest.raises(UserError, match=f"{name} cannot be read") as caught:
        cut(Checkpoint.open(folder), Selection(blocks=({}, {})), tmp_path / "student")
    assert "Permission denied" in caught.value.got
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("fault", ["gone", "shorter", "another header", "a folder"])
def test_weights_that_change_under_an_open_checkpoint(fault, tmp_path):
    checkpoint = Checkpoint.open(save(shaken(tiny("M-", vocab=61)), tmp_path))
    file = tmp_path / SINGLE
    if fault == "shorter":
        os.truncate(file, 2000)
    elif fault == "another header":
        save_file({"x": torch.ones(1)}, file)
    else:
        file.unlink()
    if fault == "a folder":
        file.mkdir()
    for read in (checkpoint.tensor, lambda name: next(checkpoint.pieces(name))):
        with pytest.raises(UserError, match=r"safetensors changed after it was opened, or cannot"):
            read("blocks.1.up_proj.weight")


@pytest.mark.parametrize("name", ["config.json", SINGLE, INDEX])
def test_folders_in_the_place_of_files(name, tmp_path):
    folder = save(shaken(tiny("M-", vocab=61)), tmp_path / "a")
    (folder / SINGLE).unlink()
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with pytest.raises(UserError, match=r"no checkpoint here|no safetensors weights"):
        Checkpoint.open(folder)
