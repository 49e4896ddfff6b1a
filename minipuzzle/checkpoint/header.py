"""What a safetensors file says of itself, read without loading a tensor. Format: 8-byte length,
JSON, data.

As strict as safetensors' own reader (which we do not call before a tensor is asked for): the data
of all tensors lie one after another, without a hole and without an overlap, from the header's end
to the end of the file.
"""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from minipuzzle.artifacts import unreadable
from minipuzzle.checkpoint.doors import RESTORE
from minipuzzle.errors import UserError

DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "BOOL": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
}
MAX_HEADER = 100_000_000
"""Bytes; safetensors' own bound. A file may announce any size, and parsing costs ten times as much
memory.
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a file: where its data lies, its dtype (safetensors' name) and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def width(self) -> int:
        """Bytes of one number."""
        return DTYPE_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        """The size of its data."""
        return self.numbers * self.width


def read_header(path: Path) -> dict[str, Entry]:
    """Every tensor of a file. Raises: UserError where it cannot be read, is truncated or is not
    safetensors.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
            if not 2 <= length <= size - 8:
                raise _broken(path, f"{size:,} bytes, a header of {length:,} announced")
            if length > MAX_HEADER:
                raise _broken(
                    path, f"a header of {length:,} bytes; safetensors allows {MAX_HEADER:,}"
                )
            text = file.read(length)
    except OSError as error:
        raise unreadable(path, error, next=RESTORE) from error
    try:
        header = json.loads(text.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a key twice, too deep
        raise _broken(path, error) from error
    if not isinstance(header, dict):
        raise _broken(path, f"a header that is a {type(header).__name__}")
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise _broken(path, "a __metadata__ that is no map of texts")
    entries = {name: _entry(path, name, entry, 8 + length, size) for name, entry in header.items()}
    at = 8 + length
    for start, end, name in sorted(
        (e.start, e.start + e.nbytes, name) for name, e in entries.items()
    ):
        if start != at:
            where = (
                "which belong to another tensor"
                if start < at
                else f"after a hole from byte {at:,} on"
            )
            raise _broken(path, f"{name} at bytes {start:,} to {end:,}, {where}")
        at = end
    if at != size:
        raise _broken(path, f"{size:,} bytes where the header announces {at:,}")
    return entries


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(name for (name, n) in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"{ascii(twice)[:100]} is there twice")
    return result


def _entry(path: Path, name: str, said: Any, base: int, size: int) -> Entry:
    if not name.isprintable():
        raise _broken(path, f"a tensor called {ascii(name)[:100]}")
    try:
        dtype, shape, (start, end) = str(said["dtype"]), tuple(said["shape"]), said["data_offsets"]
        whole = all(type(n) is int and 0 <= n < 1 << 63 for n in (*shape, start, end))
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"an incomplete entry for {name}") from error
    if dtype not in DTYPE_BYTES:
        raise UserError(
            f"Tensor {name} has a dtype we do not read.",
            got=dtype[:40],
            allowed=", ".join(DTYPE_BYTES),
            next="Convert the checkpoint to BF16.",
        )
    if not whole or end - start != prod(shape) * DTYPE_BYTES[dtype]:
        raise _broken(
            path, f"{name} of shape {list(shape)} in {dtype} at bytes {start} to {end}"[:200]
        )
    if base + end > size:
        raise _broken(path, f"{size:,} bytes where {name} ends at {base + end:,}")
    return Entry(file=path, dtype=dtype, shape=shape, start=base + start)


def _broken(path: Path, got: object) -> UserError:
    return UserError(
        f"The shard {path.name} is truncated or damaged.",
        got=got,
        allowed="a complete safetensors file",
        next="Copy or download the file again.",
    )
