"""What a safetensors file says of itself, read without loading a tensor. Format: 8-byte length, JSON, data."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

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
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != size:
        raise _broken(path, f"{size:,} bytes where the header announces {8 + length + end:,}")
    for name, entry in header.items():
        if entry["dtype"] not in DTYPE_BYTES:
            raise UserError(f"Tensor {name} has a dtype we do not read.", got=entry["dtype"],
                            allowed=", ".join(DTYPE_BYTES), next="Convert the checkpoint to BF16.")  # fmt: skip
    return {
        name: Entry(file=path, dtype=e["dtype"], shape=tuple(e["shape"]), start=8 + length + e["data_offsets"][0])
        for name, e in header.items()
    }


def _broken(path: Path, got: object) -> UserError:
    return UserError(
        f"The shard {path.name} is truncated or damaged.", got=got, allowed="a complete safetensors file",
        next="Copy or download the file again.",
    )  # fmt: skip
