"""Tensors that a file holds in pieces: read lazily, written as read."""

import pytest
import torch
from parts_family import MODEL, as_stacks, files, install, values, write
from safetensors.torch import save_file

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint, reader, stored
from minipuzzle.families import Parts, written
from minipuzzle.families._parts import Interleaved, named
from minipuzzle.surgery import cut


@pytest.fixture(autouse=True)
def _family(monkeypatch):
    install(monkeypatch)


@pytest.fixture
def singles(tmp_path):
    write(tmp_path / "singles")
    return tmp_path / "singles"


@pytest.fixture
def stacks(tmp_path, singles):
    folder = as_stacks(tmp_path / "stacks")
    (folder / "config.json").write_bytes((singles / "config.json").read_bytes())
    return folder


def test_names_of_pieces():
    stack = named(("{expert}.g", "{expert}.u"), "l.", 2)
    assert stack == Parts((("l.0.g", "l.0.u"), ("l.1.g", "l.1.u")))
    assert stack.names == ("l.0.g", "l.0.u", "l.1.g", "l.1.u")
    assert named("{expert}.u", "l.", 2) == Parts((("l.0.u",), ("l.1.u",)))
    assert named(("g", "u"), "l.", 7) == Parts((("l.g", "l.u"),), stacked=False)
    assert named("u", "l.", 7) == "l.u"
    twice = named(("a", "a", "b"), "l.", 7)
    assert (twice.names, str(twice)) == (("l.a", "l.b"), "l.a + l.b")
    assert named(Interleaved("u"), "l.", 7) == Parts((("l.u",),), stacked=False, interleaved=True)


def test_the_form_that_was_read_is_written():
    patterns = (("{expert}.g", "{expert}.u"), "{expert}.gu", "gu", ("g", "u"), Interleaved("i"))
    ways = tuple(named(pattern, "", 3) for pattern in patterns)
    read = [named(pattern, "other.", 5) for pattern in patterns]
    assert [written(ways, way) for way in read] == list(ways)
    assert written(ways, None) == written(ways[:1], read[3]) == ways[0]


def test_pieces_are_written_where_they_belong(singles):
    found, want = files(singles), values()
    gate_up = want["blocks.0.cells.gate_up"]
    assert torch.equal(found["layers.0.cells.3.gate.weight"], gate_up[3, :4])
    assert torch.equal(found["layers.0.cells.3.up.weight"], gate_up[3, 4:])
    assert torch.equal(found["layers.1.one.weight"], want["blocks.1.packed.weight"][:3])
    assert torch.equal(found["layers.1.two.weight"], want["blocks.1.packed.weight"][3:])
    wide = want["blocks.1.wide.weight"]
    assert torch.equal(found["layers.1.first.weight"], wide[:9])
    assert torch.equal(found["layers.1.second.weight"], wide[9:])
    laid, by_cell = want["blocks.1.laid.weight"], found["layers.1.laid_by_cell.weight"]
    for cell, rows in enumerate(by_cell.split(1 + 2 + 1)):
        assert torch.equal(rows, laid[[cell, 3 + 2 * cell, 4 + 2 * cell, 9 + cell]])
    assert len(found) == 3 + 2 * (2 + 2 + 3) + 2 * 5 + 2 * 3  # top, norms and so on, cells


@pytest.mark.parametrize("form", ["singles", "stacks"])
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 100])
@pytest.mark.parametrize("piece_bytes", [1, 200, 1 << 24])
def test_read_as_it_was(form, shard_bytes, piece_bytes, request, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "PIECE_BYTES", piece_bytes)
    source = Checkpoint.open(request.getfixturevalue(form))
    again = write(tmp_path / "again", shard_bytes, source)
    assert files(again.path).keys() == files(source.path).keys()  # what was read is written
    assert len(list(again.path.glob("*.safetensors"))) == 1 or shard_bytes == 100
    for name, value in values().items():
        assert torch.equal(again.tensor(name), value)
        assert again.tensor(name).dtype == value.dtype == again.held_dtype(name)
        target = torch.empty(value.shape, dtype=torch.float64)
        again.read_into(name, target)
        assert torch.equal(target, value.double())
        if len(value) > 2:
            again.read_into(name, target[:1], start=2)
            assert torch.equal(target[0], value[2].double())
    assert again.parameters == MODEL.parameters == sum(v.numel() for v in values().values()) - 8
    assert again.bytes == sum(v.numel() * v.element_size() for v in values().values())
    assert again.dtype == "BF16"
    assert again.fingerprint == source.fingerprint


def test_one_of_a_stack_is_read_alone(singles, stacks, monkeypatch):
    read = []
    real = stored._fill
    monkeypatch.setattr(stored, "_fill", lambda *a: read.append(len(a[2])) or real(*a))
    want = values()["blocks.0.cells.gate_up"]
    for folder in (singles, stacks):
        checkpoint = Checkpoint.open(folder)
        for index in range(5):
            got = checkpoint.expert_tensor("blocks.0.cells.gate_up", index)
            assert torch.equal(got, want[index])
    matrix = 8 * 6 * 2
    assert read == [matrix // 2] * 10 + [matrix] * 5


def test_fingerprints_tell_pieces_apart(singles):
    before = Checkpoint.open(singles).fingerprint
    tensors = files(singles)
    one, two = "layers.0.cells.1.gate.weight", "layers.0.cells.2.gate.weight"
    tensors[one], tensors[two] = tensors[two], tensors[one]
    save_file(tensors, singles / "model.safetensors")
    assert Checkpoint.open(singles).fingerprint != before


def test_a_buffer_is_fp32_in_every_file(singles, tmp_path):
    tensors = files(singles)
    low = {name: value.bfloat16() for name, value in tensors.items()}
    save_file(low, singles / "model.safetensors")
    read = Checkpoint.open(singles)
    name = "blocks.0.correction"
    assert read.tensor(name).dtype == read.held_dtype(name) == torch.float32
    half = {name: read.tensor(name).bfloat16() for name in values()}
    again = write(tmp_path / "again", source=read, tensors=half)
    assert files(again.path)["layers.0.correction"].dtype == torch.float32
    assert again.parameters == MODEL.parameters


@pytest.mark.parametrize("form", ["singles", "stacks"])
def test_cut_of_a_stack_keeps_its_form(form, request, tmp_path):
    parent = Checkpoint.open(request.getfixturevalue(form))
    kept = {"cells": (1, 4), "cells*parts": (5, 6, 16, 19)}  # parts 1, 2 of cell 1; 0, 3 of cell 4
    student = cut(parent, Selection(blocks=(kept, None)), tmp_path / "student")
    want = values()
    stack = want["blocks.0.cells.gate_up"]
    kept_rows = torch.stack([stack[1, [1, 2, 5, 6]], stack[4, [0, 3, 4, 7]]])
    assert torch.equal(student.tensor("blocks.0.cells.gate_up"), kept_rows)
    rows = [1, 4, *range(5, 11)]
    assert torch.equal(
        student.tensor("blocks.0.packed.weight"), want["blocks.0.packed.weight"][rows]
    )
    rows = [1, 4, 5 + 5, 5 + 6, 5 + 16, 5 + 19, 5 + 20 + 1, 5 + 20 + 4]
    assert torch.equal(student.tensor("blocks.0.laid.weight"), want["blocks.0.laid.weight"][rows])
    assert torch.equal(student.tensor("blocks.0.correction"), want["blocks.0.correction"][[1, 4]])
    assert ("layers.0.cells.gate_up" in files(student.path)) == (form == "stacks")
    assert ("layers.0.cells.1.up.weight" in files(student.path)) == (form == "singles")
