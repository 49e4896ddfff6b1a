"""Whether a model's head is its embedding, and whether it has multi-token prediction: config.json
says so, and the weights may say otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint.header import Entry
from minipuzzle.checkpoint.shards import read_entries, weight_files
from minipuzzle.families import Family, names_of, single

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
    weights hold another one, and without multi-token prediction where the weights hold nothing of
    it (transformers' save_pretrained leaves it out).

    As transformers 5.23: two tensors of the same values are one, different ones stay two. Without
    all of the weights config.json is believed. Raises: UserError for broken files.
    """
    if not architecture.tied_head and not architecture.mtp:
        return architecture
    files = weight_files(path, config)
    if not files or not all((path / name).is_file() for name in files):
        return architecture
    entries = read_entries(path, config)[0]
    if architecture.mtp:
        names = family.names(architecture)
        held = [name for t in architecture.mtp_tensors() for name in names[t.name]]
        if not any(piece in entries for name in held for piece in names_of(name)):
            architecture = replace(architecture, mtp=())
    if not architecture.tied_head:
        return architecture
    own = replace(architecture, tied_head=False)
    names = family.names(own)
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
