"""GGUF formats in studies/quantised.py: what llama.cpp's own quantiser makes of matrices."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model import HybridLM

GGML = {"Q4_0": 2, "Q5_0": 6, "Q8_0": 8, "Q4_K": 12, "IQ4_NL": 20}
"""Numbers of ggml's types."""


def ggml_type(columns: int, name: str) -> str:
    """What llama-quantize takes where 256 does not divide the columns."""
    return "Q5_0" if name == "Q4_K" and columns % 256 else name


def matrices(architecture: object) -> list[str]:
    blocks = enumerate(getattr(architecture, "blocks"))  # noqa: B009
    return [f"blocks.{i}.{name}" for i, block in blocks for name in block.matrices]


def gguf_bytes(checkpoint: Checkpoint, name: str) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    size = checkpoint.bytes
    for path in matrices(checkpoint.architecture):
        weight = checkpoint.tensor(path)
        block, held = GGML_QUANT_SIZES[GGMLQuantizationType[ggml_type(weight.shape[-1], name)]]
        size += weight.numel() // block * held - weight.nbytes
    return size


@contextmanager
def in_gguf(model: HybridLM, name: str) -> Iterator[None]:
    """Within it matrices are what llama.cpp's own quantiser makes of them, without an importance
    matrix; head and embeddings stay whole, as in the other formats.
    """
    own = {
        path: model.get_parameter(path).detach().clone() for path in matrices(model.architecture)
    }
    with torch.no_grad():
        for path, weight in own.items():
            rounded = through_ggml(weight.flatten(0, -2).cpu(), ggml_type(weight.shape[-1], name))
            model.get_parameter(path).copy_(rounded.view_as(weight))
    try:
        yield
    finally:
        with torch.no_grad():
            for path, weight in own.items():
                model.get_parameter(path).copy_(weight)


def through_ggml(weight: torch.Tensor, name: str) -> torch.Tensor:
    """[rows, columns] FP32 through ``ggml_quantize_chunk`` of xllamacpp's library and back through
    the reader of the package gguf.
    """
    import xllamacpp
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
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
    block, held = GGML_QUANT_SIZES[kind]
    source = weight.to(torch.bfloat16).float().contiguous()
    rows, columns = source.shape
    codes = torch.empty((rows, columns // block * held), dtype=torch.uint8)
    written = quantise(int(kind), source.data_ptr(), codes.data_ptr(), 0, rows, columns, None)
    assert written == codes.numel(), (written, codes.shape)
    return torch.from_numpy(dequantize(codes.numpy(), kind))
