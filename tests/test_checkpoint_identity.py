"""A checkpoint's fingerprint: every byte of every weight counts, copies are the same, and nothing
large is read twice.
"""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run
from safetensors.torch import load_file, save_file

from minipuzzle.adapters import SavedAdapter, make_plan, merge
from minipuzzle.checkpoint import Checkpoint, identity, write_checkpoint
from minipuzzle.errors import UserError

NAME = "backbone.embeddings.weight"


@pytest.fixture
def folder(tmp_path):
    """The weights of one matrix are more than 4 KiB."""
    return save(shaken(tiny("M-*", vocab=61)), tmp_path / "a")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Every file is large, and settled; gives the files whose bytes were read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "KEPT_FROM", 1)
    monkeypatch.setattr(identity, "SETTLED", -1.0)
    read, piece = [], identity._piece
    monkeypatch.setattr(identity, "_piece", lambda *a: read.append(a[0].parent.name) or piece(*a))
    return read


def flip(file, at, back=False):
    """Change one bit of a file in place; ``back`` sets its time to what it was."""
    before = file.stat()
    with file.open("r+b") as handle:
        handle.seek(at)
        byte = handle.read(1)[0]
        handle.seek(at)
        handle.write(bytes([byte ^ 1]))
    if back:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def of(folder):
    return Checkpoint.open(folder).fingerprint


def test_one_bit_anywhere_is_another_checkpoint(folder):
    file, seen = folder / "model.safetensors", {of(folder)}
    entries = Checkpoint.open(folder)._entries.values()
    for entry in entries:
        for at in {entry.start, entry.start + entry.nbytes // 2, entry.start + entry.nbytes - 1}:
            flip(file, at)
            seen.add(of(folder))
            flip(file, at)
    assert len(seen) == 1 + sum(len({0, e.nbytes // 2, e.nbytes - 1}) for e in entries)


def test_pieces_do_not_hide_where_a_change_is(folder, monkeypatch):
    """The same digests whatever a read returns, and another where two pieces of a tensor change
    places.
    """
    whole = of(folder)
    monkeypatch.setattr(identity, "READ", 1000)
    assert of(folder) == whole
    monkeypatch.setattr(identity, "PIECE", 128)
    small, values = of(folder), load_file(folder / "model.safetensors")
    values[NAME] = torch.cat([values[NAME][1:2], values[NAME][:1], values[NAME][2:]])
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    assert of(folder) != small


def test_copies_and_other_shards_are_the_same_checkpoint(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "b")
    source = Checkpoint.open(folder)
    write_checkpoint(
        tmp_path / "c",
        source.architecture,
        source.tensor,
        source=source,
        config=source.config,
        shard_bytes=9000,
    )
    assert len(list((tmp_path / "c").glob("*.safetensors"))) > 1
    assert of(folder) == of(tmp_path / "b") == of(tmp_path / "c")


def test_a_large_file_is_read_once(folder, tmp_path, kept):
    first = of(folder)
    count = len(kept)
    assert count == len(Checkpoint.open(folder)._entries)
    assert (of(folder), len(kept)) == (first, count)
    flip(
        folder / "model.safetensors", -1 + (folder / "model.safetensors").stat().st_size, back=True
    )
    assert of(folder) != first
    assert len(kept) == 2 * count
    flip(
        folder / "model.safetensors", -1 + (folder / "model.safetensors").stat().st_size, back=True
    )
    (folder / "model.safetensors").rename(folder / "x")
    shutil.copy2(folder / "x", folder / "model.safetensors")
    assert of(folder) == first
    assert len(kept) == 3 * count
    assert {p.parent.name for p in (tmp_path / "cache").rglob("*") if p.is_file()} == {"identity"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"state": 1}',
        '{"state": STATE, "tensors": []}',
        "\0",
        '{"state": STATE, "tensors": {"NAME": 5}}',
    ],
)
def test_what_was_kept_is_not_trusted_when_damaged(text, folder, tmp_path, kept):
    first = of(folder)
    (place,) = (tmp_path / "cache").rglob("*.json")
    place.write_text(
        text.replace("STATE", json.dumps(json.loads(place.read_text())["state"])).replace(
            "NAME", NAME
        )
    )
    before = len(kept)
    assert of(folder) == first
    assert len(kept) == 2 * before


@pytest.mark.parametrize("home", ["a file", "relative"])
def test_without_a_cache_it_is_read_each_time(home, folder, tmp_path, kept, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(
        "XDG_CACHE_HOME", str(tmp_path / "file") if home == "a file" else "somewhere"
    )
    assert of(folder) == of(folder)
    assert len(kept) == 2 * len(Checkpoint.open(folder)._entries)
    assert not Path("somewhere").exists()


def test_two_processes_read_large_weights_once(folder, kept, monkeypatch, capfd):
    """The second waits for what the first keeps."""
    fcntl = pytest.importorskip("fcntl")
    entries, piece, threads = Checkpoint.open(folder)._entries, identity._piece, []

    def first(*words):
        if not threads:
            threads.append(threading.Thread(target=second))
            threads[0].start()
            assert waiting.wait(5)
        return piece(*words)

    def second():
        found.append(identity.digests(entries))

    waiting, found, flock = threading.Event(), [], fcntl.flock

    def lock(handle, how):
        if how == fcntl.LOCK_EX:
            waiting.set()
        return flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", lock)
    monkeypatch.setattr(identity, "_piece", first)
    whole = identity.digests(entries)
    threads[0].join(20)
    assert found == [whole]
    assert len(kept) == len(entries)
    assert "waiting: another process" in capfd.readouterr().err


def test_a_file_changed_just_now_is_not_kept(folder, tmp_path, kept, monkeypatch):
    """Two changes within the resolution of a file system's clock leave the same times."""
    monkeypatch.setattr(identity, "SETTLED", 60.0)
    of(folder)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_opening_reads_no_weights_and_a_change_after_it_is_seen(folder, monkeypatch):
    monkeypatch.setattr(identity, "_piece", lambda *a: pytest.fail("read"))
    checkpoint = Checkpoint.open(folder)
    monkeypatch.undo()
    flip(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 1)
    with pytest.raises(UserError, match="changed after it was opened"):
        _ = checkpoint.fingerprint


def test_a_file_that_changes_while_it_is_read(folder, monkeypatch):
    piece = identity._piece
    monkeypatch.setattr(identity, "_piece", lambda *a: os.utime(a[0]) or piece(*a))
    with pytest.raises(UserError, match="changed while it was read"):
        of(folder)


def double_late_rows(folder):
    values = load_file(folder / "model.safetensors")
    values[NAME][len(values[NAME]) // 2 :] *= -3.0
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})


def test_an_adapter_is_not_merged_into_weights_that_changed(folder, tmp_path):
    base = Checkpoint.open(folder)
    plan = make_plan(base.architecture, "lora", rank=2)
    tensors = {
        f"{g.name}.{factor}": torch.ones(shape)
        for g in plan.groups
        for factor, shape in g.shapes(plan.mask).items()
    }
    saved = SavedAdapter(plan=plan, tensors=tensors, base=base.fingerprint)
    merge(base, saved, tmp_path / "merged")
    double_late_rows(folder)
    with pytest.raises(UserError, match="another checkpoint"):
        merge(Checkpoint.open(folder), saved, tmp_path / "again")


def test_scores_are_not_kept_for_weights_that_changed(checkpoint, tmp_path, capfd):
    words = (
        "score",
        checkpoint,
        "--run",
        tmp_path / "run",
        "--data",
        TEXT,
        *FAST["score"],
        "--no-curves",
    )
    run(*words)
    run(*words)
    double_late_rows(checkpoint)
    run(*words, code=2)
    said = capfd.readouterr().err
    assert "belongs to another checkpoint: this one's weights or config.json were changed" in said
