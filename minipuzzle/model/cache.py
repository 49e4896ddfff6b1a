"""What decoding remembers: a slot for each block, whose tensors the block's kind declares."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from minipuzzle.kernels.attention import Rows


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a slot is made for: ``batch`` rows of up to ``capacity`` tokens, on a device.

    ``kv_dtype`` of what is remembered of single tokens, ``state_dtype`` of sums over all of them.
    """

    batch: int
    capacity: int
    device: torch.device
    kv_dtype: torch.dtype
    state_dtype: torch.dtype = torch.float32


@dataclass(kw_only=True)
class Slot:
    """What one block remembers. A kind's subclass adds fields of tensors [b, ...], of each a row a
    sequence, and says in ``terms`` which term of ``minipuzzle.kinds.Cache`` each of them is.

    ``rows`` where each row has its own length.
    """

    terms: ClassVar[dict[str, str]]
    rows: Rows | None = None

    def named(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}

    def tensors(self) -> list[Tensor]:
        """All that is remembered."""
        return list(self.named().values())

    def part(self, start: int, stop: int) -> Self:
        """Rows start..stop-1 of it: the same memory."""
        return replace(self, rows=None, **{n: t[start:stop] for n, t in self.named().items()})

    def nbytes(self, *terms: str) -> int:
        """Bytes of the tensors of these terms: "kv", "state", "window"."""
        return sum(t.nbytes for name, t in self.named().items() if self.terms[name] in terms)


@dataclass(kw_only=True)
class Cache:
    """One slot a block (None for feed-forward), room for ``capacity`` tokens a row, and the number
    of tokens seen.

    Any number of tokens may follow those seen, the same in every row; after ``decode_rows`` one a
    row.
    """

    slots: list[Slot | None] = field(default_factory=list)
    capacity: int
    length: int = 0

    def part(self, start: int, stop: int) -> Cache:
        """Rows start..stop-1 as a cache of their own that shares this one's memory and has seen
        nothing.
        """
        slots = [None if slot is None else slot.part(start, stop) for slot in self.slots]
        return Cache(slots=slots, capacity=self.capacity)

    def decode_rows(self, lengths: list[int], device: torch.device) -> Rows:
        """From now on one token a row at a time, row i after its own ``lengths[i]`` tokens. The
        caller advances the rows; ``length`` is then only a bound that no row is above.
        """
        rows = Rows.of(lengths, self.capacity, device)
        for slot in self.slots:
            if slot is not None:
                slot.rows = rows
        self.length = max(lengths)
        return rows
