"""GGUF formats in studies/quantised.py: what llama.cpp's quantiser makes of matrices, Q4_K without
its library, so that a GPU can train in it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model import HybridLM

GGML = {"Q4_0": 2, "Q5_0": 6, "Q8_0": 8, "Q4_K": 12, "IQ4_NL": 20}
"""Numbers of ggml's types."""
BLOCKS = {"Q4_0": (32, 18), "Q5_0": (32, 22), "Q8_0": (32, 34), "Q4_K": (256, 144)}
BLOCKS["IQ4_NL"] = BLOCKS["Q4_0"]
"""Columns of a block and its bytes."""


def ggml_type(columns: int, name: str) -> str:
    """What llama-quantize takes where 256 does not divide the columns."""
    return "Q5_0" if name == "Q4_K" and columns % 256 else name


def matrices(architecture: object) -> list[str]:
    blocks = enumerate(getattr(architecture, "blocks"))  # noqa: B009
    return [f"blocks.{i}.{name}" for i, block in blocks for name in block.matrices]


def lacking(checkpoint: Checkpoint, name: str) -> bool:
    """Whether matrices would need xllamacpp for the format, and it is not installed."""
    paths = matrices(checkpoint.architecture)
    kinds = {ggml_type(checkpoint.tensor(path).shape[-1], name) for path in paths}
    return kinds != {"Q4_K"} and not find_spec("xllamacpp")


def gguf_bytes(checkpoint: Checkpoint, name: str) -> int:
    size = checkpoint.bytes
    for path in matrices(checkpoint.architecture):
        weight = checkpoint.tensor(path)
        block, held = BLOCKS[ggml_type(weight.shape[-1], name)]
        size += weight.numel() // block * held - weight.nbytes
    return size


@contextmanager
def in_gguf(model: HybridLM, name: str, *, compiled: bool = False) -> Iterator[None]:
    """Within it matrices are what llama.cpp's own quantiser makes of them, without an importance
    matrix; head and embeddings stay whole, as in the other formats. ``compiled``: for many steps.
    """
    own = {
        path: model.get_parameter(path).detach().clone() for path in matrices(model.architecture)
    }
    with torch.no_grad():
        for path, weight in own.items():
            kind = ggml_type(weight.shape[-1], name)
            rows = weight.flatten(0, -2).to(torch.bfloat16).float()
            if kind == "Q4_K":
                rounded = q4_k(rows, _compiled() if compiled else fit)
            else:
                rounded = through_ggml(rows.cpu(), kind)
            model.get_parameter(path).copy_(rounded.view_as(weight))
    try:
        yield
    finally:
        with torch.no_grad():
            for path, weight in own.items():
                model.get_parameter(path).copy_(weight)


def fit(x: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the offset down [groups, 1] of groups [groups, 32] of weights in 16 steps:
    ggml's ``make_qkx2_quants`` as Q4_K calls it (ggml/src/ggml-quants.c).
    """

    def total(each: Tensor) -> Tensor:
        return each.sum(1, keepdim=True)

    weights = x.square().mean(1, keepdim=True).sqrt() + x.abs()
    least, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True)
    low, scale = least, (high - least) / 15
    best = total(weights * (scale * ((x - low) / scale).round().clamp(0, 15) + low - x).square())
    sum_w, sum_x = total(weights), total(weights * x)
    for step in range(21):  # from what is best so far
        codes = ((14 + 0.1 * step) / (high - low) * (x - low)).round().clamp(0, 15)
        sum_l, sum_l2 = total(weights * codes), total(weights * codes * codes)
        sum_xl = total(weights * codes * x)
        below = sum_w * sum_l2 - sum_l * sum_l
        there = (sum_l2 * sum_x - sum_l * sum_xl) / below
        this = torch.where(there > 0, sum_xl / sum_l2, (sum_w * sum_xl - sum_x * sum_l) / below)
        there = there.clamp(max=0)
        error = total(weights * (this * codes + there - x).square())
        better = (error < best) & (below > 0)
        best = torch.where(better, error, best)
        scale, low = torch.where(better, this, scale), torch.where(better, there, low)
    flat = high == least
    return torch.where(flat, 0, scale), -torch.where(flat, least, low)


@cache
def _compiled() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """``fit`` as one kernel, whatever the number of groups."""
    return torch.compile(fit, dynamic=True)


def q4_k(weight: Tensor, fit: Callable[[Tensor], tuple[Tensor, Tensor]] = fit) -> Tensor:
    """[rows, columns] FP32, columns whole blocks of 256, through Q4_K: scales and offsets of 32
    columns in 6 bits of the block's largest, which are FP16.
    """
    x = weight.reshape(-1, 8, 32)
    held = []
    for part in fit(x.view(-1, 32)):
        each = part.view(-1, 8, 1)
        most = each.amax(1, keepdim=True).clamp(min=0)
        codes = (torch.where(most > 0, 63 / most, 0) * each).round().clamp(max=63)
        held.append((most / 63).half().float() * codes)
    scale, offset = held
    codes = ((x + offset) / torch.where(scale == 0, 1, scale)).round().clamp(0, 15)
    return (torch.where(scale == 0, 0, scale * codes) - offset).view_as(weight)


def through_ggml(weight: Tensor, name: str) -> Tensor:
    """[rows, columns] FP32 through ``ggml_quantize_chunk`` of xllamacpp's library and back through
    the reader of the package gguf.
    """
    import xllamacpp
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    library = ctypes.CDLL(str(Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"))
    quantise = library.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    kind = GGMLQuantizationType[name]
    assert int(kind) == GGML[name]
    block, held = BLOCKS[name]
    source = weight.to(torch.bfloat16).float().contiguous()
    rows, columns = source.shape
    codes = torch.empty((rows, columns // block * held), dtype=torch.uint8)
    written = quantise(int(kind), source.data_ptr(), codes.data_ptr(), 0, rows, columns, None)
    assert written == codes.numel(), (written, codes.shape)
    return torch.from_numpy(dequantize(codes.numpy(), kind))
