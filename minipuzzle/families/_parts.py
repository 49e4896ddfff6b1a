"""A tensor of ours that a file holds in pieces or in another order: expert by expert, a packed
matrix in its parts, or head by head.

Our tensor is the pieces' data one after another. Experts' matrices are stacks [experts, rows,
columns]; hub files have one matrix an expert, or the gate and the up projection of each apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

EXPERT = "{expert}"


@dataclass(frozen=True)
class Parts:
    """The names of a tensor's pieces in a file.

    ``stacked``: for each index of the tensor's first dimension, the file's tensors that are joined
    along their rows: ``(("0.gate", "0.up"), ("1.gate", "1.up"))`` for [2, gate + up, columns].
    Otherwise one entry: the file's tensors that are joined along the rows of the tensor itself, a
    segment of them each (``kinds.axes``); one that holds several is named as often.
    ``interleaved``: the one tensor of a file has a part of every segment for each index of their
    first axis, where ours has segment after segment.
    """

    pieces: tuple[tuple[str, ...], ...]
    stacked: bool = True
    interleaved: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Every piece's name, in the order of their data in the tensor."""
        return tuple(dict.fromkeys(name for joined in self.pieces for name in joined))

    def __str__(self) -> str:
        first, last = (" + ".join(dict.fromkeys(self.pieces[i])) for i in (0, -1))
        return first if len(self.pieces) == 1 else f"{first} to {last}"


@dataclass(frozen=True)
class Interleaved:
    """The pattern of a tensor that a file holds ``interleaved``."""

    name: str


Name = str | Parts
"""How a file may hold a tensor: under one name, in pieces or in another order."""
Pattern = str | tuple[str, ...] | Interleaved
"""A name, or names whose tensors are joined along their rows; ``{expert}`` stands for the index of
the first dimension.
"""


def named(pattern: Pattern, prefix: str, count: int) -> Name:
    """What ``pattern`` means for a tensor with ``count`` indices in its first dimension; each name
    gets the ``prefix``.

    ``named("experts.{expert}.up.weight", "layers.3.", 128)`` has a piece an expert,
    ``named(("gate.weight", "up.weight"), "layers.3.", 64)`` is one matrix of two.
    """
    if isinstance(pattern, Interleaved):
        return Parts(((prefix + pattern.name,),), stacked=False, interleaved=True)
    joined = (pattern,) if isinstance(pattern, str) else pattern
    if any(EXPERT in name for name in joined):
        indices = map(str, range(count))
        return Parts(
            tuple(tuple(prefix + name.replace(EXPERT, i) for name in joined) for i in indices)
        )
    if isinstance(pattern, str):
        return prefix + pattern
    return Parts((tuple(prefix + name for name in joined),), stacked=False)


def names_of(name: Name) -> tuple[str, ...]:
    """The tensors of a file that one of ours is made of."""
    return (name,) if isinstance(name, str) else name.names


def single(accepted: Iterable[Name]) -> tuple[str, ...]:
    """Those of the alternatives that are one tensor of a file."""
    return tuple(name for name in accepted if isinstance(name, str))


def written(accepted: tuple[Name, ...], read: Name | None) -> Name:
    """The alternative that is written: the first in the form in which the source was ``read``,
    else the first.
    """
    if read is not None:
        return next((name for name in accepted if _form(name) == _form(read)), accepted[0])
    return accepted[0]


def _form(name: Name) -> tuple[int, bool, bool]:
    """(pieces joined along the rows, whether each index has its own, whether they are in another
    order).
    """
    if isinstance(name, str):
        return 0, False, False
    return len(name.pieces[0]), name.stacked, name.interleaved
