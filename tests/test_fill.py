"""Weights read in pieces by several threads: the same numbers, and none that is not finite."""

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny
from safetensors.torch import load_file, save_file

from minipuzzle.checkpoint import Checkpoint, fill
from minipuzzle.errors import UserError

NAME = "embeddings.weight"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint whose embedding is read in 23 pieces, the last one short."""
    save(shaken(tiny(vocab=361)), tmp_path)
    monkeypatch.setattr(fill, "PIECE", 1024)
    return tmp_path


def stored(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    return file, tensors, next(n for n, t in tensors.items() if t.shape[0] == 361)


@pytest.mark.parametrize("held", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("target", [torch.bfloat16, torch.float32, torch.float64])
def test_pieces_lie_where_they_belong(folder, held, target):
    file, tensors, name = stored(folder)
    save_file({n: t.to(held) for n, t in tensors.items()}, file)
    want = load_file(file)[name].to(target)
    checkpoint = Checkpoint.open(folder)
    got = torch.full(want.shape, 7.0, dtype=target)
    checkpoint.read_into(NAME, got)
    assert torch.equal(got, want)
    rows = torch.full((200, want.shape[1]), 7.0, dtype=target)
    checkpoint.read_into(NAME, rows, 100)
    assert torch.equal(rows, want[100:300])
    across = torch.zeros(want.shape[1], 361, dtype=target).t()  # not contiguous
    checkpoint.read_into(NAME, across)
    assert torch.equal(across, want)


@pytest.mark.parametrize("target", [torch.float32, torch.float64])
def test_a_number_of_any_piece_is_refused(folder, target):
    file, tensors, name = stored(folder)
    tensors[name][350, 3] = float("nan")
    save_file(tensors, file)
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(UserError, match="1 of 256 values") as caught:
        checkpoint.read_into(NAME, torch.empty(361, 32, dtype=target))
    assert name in str(caught.value)
    checkpoint.read_into(NAME, torch.empty(300, 32, dtype=target))  # which do not hold it


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_number_of_two_bytes_is_judged_as_torch_judges_it(dtype):
    every = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.int16)).view(dtype)
    assert [fill.is_finite(one) for one in every.split(1)] == torch.isfinite(every).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float8_e5m2])
def test_the_ends_of_wider_numbers_are_judged(dtype):
    largest = torch.finfo(dtype).max
    ends = torch.tensor([largest, -largest, 0.0, -0.0], dtype=dtype)
    assert fill.is_finite(ends.repeat(100_000))
    for value in (float("nan"), float("inf"), -float("inf")):
        for place in (0, 3, 399_999):  # in the first stretch that is looked at, and in the last
            wrong = ends.repeat(100_000)
            wrong[place] = value
            assert not fill.is_finite(wrong)
    assert not fill.is_finite((-torch.tensor([float("nan")])).to(dtype))
