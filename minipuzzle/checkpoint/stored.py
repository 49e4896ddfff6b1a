"""How a tensor of ours lies in files: the data of its pieces, one after another, with scales where
they are FP8 codes.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from minipuzzle.checkpoint.header import DTYPE_BYTES, Entry
from minipuzzle.checkpoint.heads import TORCH_DTYPES
from minipuzzle.checkpoint.scales import Scale
from minipuzzle.errors import UserError
from minipuzzle.families import Name, names_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """A tensor of ``shape``, which ``entries`` of files hold under ``name``, one dtype in all.

    ``order``: (entry, first byte in it, bytes) of the parts that make its data, one after another;
    none: the entries as they are. Where they are FP8 codes, each has its ``scales``, and ``plain``
    is the dtype in which the weights that they mean are given.
    """

    name: Name
    shape: tuple[int, ...]
    entries: tuple[Entry, ...]
    order: tuple[tuple[int, int, int], ...] = ()
    scales: tuple[Scale, ...] = ()
    plain: str = ""

    @property
    def dtype(self) -> str:
        """The dtype in which it is given, as safetensors names it."""
        return self.plain or self.entries[0].dtype

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The size of its data, without scales."""
        return sum(entry.nbytes for entry in self.entries)

    @property
    def held(self) -> dict[str, Entry]:
        """All that the files hold of it, by the names there: pieces, then scales."""
        pieces = dict(zip(names_of(self.name), self.entries, strict=True))
        return pieces | {scale.name: scale.entry for scale in self.scales}

    @property
    def plain_bytes(self) -> int:
        """The size of its numbers in the dtype in which it is given."""
        return self.numbers * DTYPE_BYTES[self.dtype]

    @cached_property
    def _parts(self) -> tuple[tuple[int, int, int], ...]:
        return self.order or tuple((i, 0, entry.nbytes) for i, entry in enumerate(self.entries))

    @cached_property
    def _starts(self) -> list[int]:
        """The first byte of each part's data in the tensor's."""
        return [0, *accumulate(size for _, _, size in self._parts[:-1])]

    def _part(self, byte: int) -> int:
        return bisect_right(self._starts, byte) - 1

    def piece(self, byte: int) -> int:
        """Which piece a byte of the data belongs to."""
        return self._parts[self._part(byte)][0]

    def read(self, start: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``start`` on; only the pieces that hold them are
        opened.

        Raises: UserError where a file is not any more what was opened.
        """
        done = 0
        while done < len(target):
            part = self._part(start + done)
            index, first, length = self._parts[part]
            entry, within = self.entries[index], start + done - self._starts[part]
            size = min(length - within, len(target) - done)
            try:
                with entry.file.open("rb", buffering=0) as file:
                    file.seek(entry.start + first + within)
                    _fill(entry.file, file, target[done : done + size])
            except OSError as error:
                raise changed(entry.file, error) from error
            done += size

    def dequantised(self, start: int, codes: Tensor) -> Tensor:
        """The weights (FP32 products, rounded once to the dtype in which they are given) that
        ``codes`` [rows, ...] mean, whose data begins at the byte ``start``.

        Raises: UserError as ``read``.
        """
        import torch

        lines = codes.view(-1, codes.shape[-1])  # [lines, columns]
        result = torch.empty(codes.shape, dtype=getattr(torch, TORCH_DTYPES[self.dtype]))
        flat = result.view(lines.shape)
        done, columns = 0, lines.shape[1]
        while done < len(lines):  # a part of the files at a time
            part = self._part(start + done * columns)
            index, first, length = self._parts[part]
            within = start + done * columns - self._starts[part]
            count = min(len(lines) - done, (length - within) // columns)
            here, scale = slice(done, done + count), self.scales[index]
            values = scale.of_lines(_values(scale.entry), (first + within) // columns, count)
            flat[here] = lines[here].float() * values
            done += count
        return result


def _values(entry: Entry) -> Tensor:
    """A small tensor of a file, in FP32."""
    import torch

    data = bytearray(entry.nbytes)
    whole = Stored("", entry.shape, (entry,))
    whole.read(0, memoryview(data))
    return torch.frombuffer(data, dtype=getattr(torch, TORCH_DTYPES[entry.dtype])).float()


def _fill(path: Path, file: io.RawIOBase, target: memoryview) -> None:
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            raise changed(path, f"{done} of {len(target)} bytes")
        done += count


def changed(path: Path, got: object) -> UserError:
    """The error for a file that is not any more what was opened."""
    return UserError(
        f"{path} changed after it was opened, or cannot be read any more.",
        got=got,
        allowed="files at rest",
        next="Wait until it is written, then start again.",
    )
