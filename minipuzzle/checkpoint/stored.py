"""How a tensor of ours lies in files: the data of its pieces, one after another."""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from pathlib import Path

from minipuzzle.checkpoint.header import Entry
from minipuzzle.errors import UserError
from minipuzzle.families import Name


@dataclass(frozen=True)
class Stored:
    """A tensor of ``shape``, which ``entries`` of files hold under ``name``, one dtype in all.

    ``order``: (entry, first byte in it, bytes) of the parts that make its data, one after another;
    none: the entries as they are.
    """

    name: Name
    shape: tuple[int, ...]
    entries: tuple[Entry, ...]
    order: tuple[tuple[int, int, int], ...] = ()

    @property
    def dtype(self) -> str:
        """The dtype, as safetensors names it."""
        return self.entries[0].dtype

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The size of its data."""
        return sum(entry.nbytes for entry in self.entries)

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
