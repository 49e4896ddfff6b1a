"""Whether a model's head is its embedding: config.json says so, and the weights may say
otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint.header import Entry
from minipuzzle.checkpoint.shards import read_entries, weight_files
from minipuzzle.families import Family, single

if TYPE_CHECKING:
    import torch

EMBEDDING, HEAD = "embeddings.weight", "head.weight"
TORCH_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
PIECE = 1 << 22
"""Numbers compared at a time."""


def settled(
    path: Path, config: dict[str, Any], family: Family, architecture: Architecture
) -> Architecture:
    """``architecture``, with a head of its own where config.json says that it is tied and the
    weights hold another one.

    As transformers 5.23: two tensors of the same values are one, different ones stay two. Without
    all of the weights config.json is believed. Raises: UserError for broken files.
    """
    if not architecture.tied_head:
        return architecture
    files = weight_files(path, config)
    if not files or not all((path / name).is_file() for name in files):
        return architecture
    own = replace(architecture, tied_head=False)
    names, entries = family.names(own), read_entries(path, config)[0]
    embedding, head = (
        [entries[n] for n in single(names[part]) if n in entries] for part in (EMBEDDING, HEAD)
    )
    if not embedding or not head or all(_same(e, h) for e in embedding for h in head):
        return architecture
    return own


def _same(one: Entry, other: Entry) -> bool:
    if one.shape != other.shape or not {one.dtype, other.dtype} <= TORCH_DTYPES.keys():
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        left = one.numbers
        while left:
            count = min(PIECE, left)
            a, b = (
                _numbers(first.read(count * one.width), one),
                _numbers(second.read(count * other.width), other),
            )
            if not (a == b).all():
                return False
            left -= count
    return True


def _numbers(data: bytes, entry: Entry) -> torch.Tensor:
    import torch

    dtype: torch.dtype = getattr(torch, TORCH_DTYPES[entry.dtype])
    return torch.frombuffer(bytearray(data), dtype=dtype).double()
