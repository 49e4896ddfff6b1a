"""A wrong config, index, header or weight of a checkpoint is refused, and the error says where."""

import json
import os
import struct

import pytest
import torch
from checkpoint_files import change_config
from conftest import save, shaken, tiny
from safetensors.torch import load_file, save_file

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.header import read_header
from minipuzzle.errors import UserError


def change_weights(folder, change):
    values = load_file(folder / "model.safetensors")
    change(values)
    save_file(values, folder / "model.safetensors")


def header(folder, change):
    """Rewrite the header of a file and leave its data alone."""
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    said = json.loads(data[8 : 8 + length])
    said = change(said) or said
    text = json.dumps(said).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def index(folder, text):
    (folder / "model.safetensors").rename(folder / "whole.safetensors")
    (folder / "model.safetensors.index.json").write_text(text)


NORM = "backbone.norm_f.weight"
FAULTS = {
    "wrong shape": (
        lambda f: change_weights(f, lambda t: t.update({NORM: torch.ones(7)})),
        ["wrong shape", "(7,)", "(32,)"],
    ),
    "missing tensor": (
        lambda f: change_weights(f, lambda t: t.pop("backbone.layers.0.mixer.D")),
        ["backbone.layers.0.mixer.D", "missing"],
    ),
    "under two names": (
        lambda f: change_weights(f, lambda t: t.update({"model.norm_f.weight": t[NORM].clone()})),
        ["twice", NORM],
    ),
    "unexpected tensor": (
        lambda f: change_weights(f, lambda t: t.update({"backbone.extra": torch.ones(1)})),
        ["backbone.extra"],
    ),
    "truncated": (
        lambda f: os.truncate(f / "model.safetensors", 9000),
        ["model.safetensors", "truncated"],
    ),
    "empty file": (lambda f: os.truncate(f / "model.safetensors", 0), ["truncated"]),
    "header of a list": (lambda f: header(f, lambda h: [1]), ["damaged", "list"]),
    "entry without offsets": (
        lambda f: header(f, lambda h: h[NORM].pop("data_offsets") and None),
        ["damaged", NORM],
    ),
    "offsets that do not fit the shape": (
        lambda f: header(f, lambda h: h[NORM].update(shape=[31])),
        ["damaged", NORM],
    ),
    "negative offsets": (
        lambda f: header(f, lambda h: h[NORM].update(data_offsets=[-128, 0])),
        ["damaged", NORM],
    ),
    "offsets outside of the file": (
        lambda f: header(f, lambda h: h[NORM].update(data_offsets=[10**9, 10**9 + 128])),
        ["truncated", "ends at"],
    ),
    "unknown dtype": (
        lambda f: header(f, lambda h: h[NORM].update(dtype="F4")),
        [NORM, "F4", "BF16"],
    ),
    "pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        ["pytorch_model.bin", "never read"],
    ),
    "no config": (lambda f: (f / "config.json").unlink(), ["no checkpoint here"]),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), ["not valid JSON"]),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ["config.json", "a list"]),
    "unknown model_type": (
        lambda f: change_config(f, model_type="nemotron_x"),
        ["nemotron_x", "nemotron_h"],
    ),
    "unknown letter": (
        lambda f: change_config(f, hybrid_override_pattern="M-M*XM-"),
        ["'X'", "position 4"],
    ),
    "pattern of another length": (
        lambda f: change_config(f, hybrid_override_pattern="M-M*"),
        ["4 letters", "7"],
    ),
    "index is no JSON": (lambda f: index(f, "{"), ["index.json", "not valid JSON"]),
    "index without a map": (lambda f: index(f, "{}"), ["index.json", "weight_map"]),
    "index to another folder": (
        lambda f: index(f, '{"weight_map": {"a": "../x.safetensors"}}'),
        ["outside", "../x.safetensors"],
    ),
    "missing shard": (
        lambda f: index(f, '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'),
        ["model-00001-of-00002.safetensors", "missing"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refused_checkpoints(fault, tmp_path):
    save(shaken(tiny(vocab=61)), tmp_path / "ckpt")
    Checkpoint.open(tmp_path / "ckpt")
    change, says = FAULTS[fault]
    change(tmp_path / "ckpt")
    with pytest.raises(UserError) as caught:
        Checkpoint.open(tmp_path / "ckpt")
    for words in says:
        assert words in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_when_read(tmp_path, dtype, value):
    save(shaken(tiny(vocab=61)), tmp_path)
    change_weights(
        tmp_path, lambda t: t.update({NORM: torch.tensor([value, value, *[1.0] * 30], dtype=dtype)})
    )
    checkpoint = Checkpoint.open(tmp_path)
    checkpoint.tensor("embeddings.weight")
    with pytest.raises(UserError) as caught:
        checkpoint.tensor("final_norm.weight")
    assert NORM in str(caught.value)
    assert "2 of 32" in str(caught.value)


def test_large_float64_weights_are_finite(tmp_path):
    save(shaken(tiny(vocab=61)), tmp_path)
    change_weights(
        tmp_path, lambda t: t.update({NORM: torch.full((32,), 1e300, dtype=torch.float64)})
    )
    assert (Checkpoint.open(tmp_path).tensor("final_norm.weight") == 1e300).all()


def test_our_header_reader_agrees_with_safetensors(tmp_path):
    values = {
        "a": torch.ones(2, 3),
        "b": torch.zeros(0, 4).bfloat16(),
        "c": torch.tensor(7),
        "d": torch.ones(5).half(),
    }
    save_file(values, tmp_path / "x.safetensors", metadata={"format": "pt"})
    entries = read_header(tmp_path / "x.safetensors")
    assert {n: e.shape for n, e in entries.items()} == {
        n: tuple(v.shape) for n, v in values.items()
    }
    assert all(entries[n].nbytes == v.numel() * v.element_size() for n, v in values.items())
    data = (tmp_path / "x.safetensors").read_bytes()
    assert data[entries["a"].start :][: entries["a"].nbytes] == values["a"].numpy().tobytes()
