"""What a safetensors file says of itself, read without loading a tensor. Format: 8-byte length, JSON, data."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from minipuzzle.errors import UserError

DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
               "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip
SAMPLE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a file: where its data lies, its dtype (safetensors' name) and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """The size of its data."""
        return prod(self.shape) * DTYPE_BYTES[self.dtype]

    def sample(self) -> bytes:
        """The first bytes of its data."""
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.read(min(SAMPLE_BYTES, self.nbytes))


def read_header(path: Path) -> dict[str, Entry]:
    """Every tensor of a file. Raises: UserError where the file is truncated or not safetensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= size - 8:
            raise _broken(path, f"{size:,} bytes, a header of {length:,} announced")
        try:
            header = json.loads(file.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise _broken(path, error) from error
    if not isinstance(header, dict):
        raise _broken(path, f"a header that is a {type(header).__name__}")
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, entry, 8 + length, size) for name, entry in header.items()}
    end = max((e.start + e.nbytes for e in entries.values()), default=8 + length)
    if end != size:
        raise _broken(path, f"{size:,} bytes where the header announces {end:,}")
    return entries


def _entry(path: Path, name: str, said: Any, base: int, size: int) -> Entry:
    try:
        dtype, shape, (start, end) = str(said["dtype"]), tuple(said["shape"]), said["data_offsets"]
        whole = all(isinstance(n, int) and n >= 0 for n in (*shape, start, end))
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"an incomplete entry for {name}") from error
    if dtype not in DTYPE_BYTES:
        raise UserError(f"Tensor {name} has a dtype we do not read.", got=dtype, allowed=", ".join(DTYPE_BYTES),
                        next="Convert the checkpoint to BF16.")  # fmt: skip
    if not whole or end - start != prod(shape) * DTYPE_BYTES[dtype]:
        raise _broken(path, f"{name} of shape {list(shape)} in {dtype} at bytes {start} to {end}")
    if base + end > size:
        raise _broken(path, f"{size:,} bytes where {name} ends at {base + end:,}")
    return Entry(file=path, dtype=dtype, shape=shape, start=base + start)


def _broken(path: Path, got: object) -> UserError:
    return UserError(
        f"The shard {path.name} is truncated or damaged.", got=got, allowed="a complete safetensors file",
        next="Copy or download the file again.",
    )  # fmt: skip
