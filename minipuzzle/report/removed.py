"""What a student lost and why: the scores of removed parts beside those of kept ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Selection
from minipuzzle.kinds import KINDS, Block, Kept, Width
from minipuzzle.scores import Scores

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One sort of part: how many of how many were removed, and the scores [n] of both sides.

    Block scores are as measured; channel and head scores are divided by the largest of their block,
    so that blocks can be compared. ``lost`` is the removed share of the squared score, None for
    blocks; ``where`` names the removed ones.
    """

    what: str
    removed: Values
    kept: Values
    lost: float | None
    where: str

    @property
    def count(self) -> int:
        """How many were removed."""
        return len(self.removed)

    @property
    def total(self) -> int:
        """How many there were."""
        return len(self.removed) + len(self.kept)


def removals(pattern: str, scores: Scores, selection: Selection) -> list[Removal]:
    """A row for each kind of block and each axis of the parent; ``selection`` is
    what the student keeps.
    """
    blocks = selection.blocks
    kinds = [kind for kind in KINDS.values() if kind.letter in pattern]
    rows = [_of_kind(kind, pattern, scores, blocks) for kind in kinds]
    for width in (width for kind in kinds for width in kind.widths):
        row = _of_width(width, scores, blocks)
        if row is not None and (width.usual or row.count):
            rows.append(row)
    return rows + ([] if selection.hidden is None else [_of_stream(scores, selection.hidden)])


def misfit(pattern: str, scores: Scores, selection: Selection) -> str:
    """Where scores and a selection are of different models, in words; empty where they fit."""
    if len(scores.blocks) != len(pattern):
        return f"scores of {len(scores.blocks)} blocks, a search of {len(pattern)}"
    wanted = {kind.letter: {width.score for width in kind.widths} for kind in KINDS.values()}
    for i, (letter, kept) in enumerate(zip(pattern, selection.blocks, strict=True)):
        found = set(scores.of(i))
        if not found <= wanted[letter] or (wanted[letter] and not found):
            return f"scores of another kind of block {i}"
        for width in _widths(scores, i):
            axis, values = _values(width, scores, i)
            if kept and kept.get(axis, (0,))[-1:] >= (values.size,):
                return f"{axis} {kept[axis][-1]} of block {i}, which has {values.size}"
    hidden = selection.hidden
    if hidden is not None and (scores.hidden is None or hidden[-1:] >= (len(scores.hidden),)):
        return f"hidden channel {hidden[-1]}" if hidden else "no hidden channel"
    return ""


def channel_scores(scores: Scores, block: int) -> tuple[str, Values] | None:
    """(axis, score of each channel or head [size]) of a block: the first width that its kind
    declares; a head's is the L2 norm over its channels. None for a block without scores.
    """
    widths = _widths(scores, block)
    return _values(widths[0], scores, block) if widths else None


def _widths(scores: Scores, block: int) -> list[Width]:
    """The widths that the scores of a block rank, as its kind declares them."""
    names = set(scores.of(block))
    return [width for kind in KINDS.values() for width in kind.widths if width.score in names]


def _values(width: Width, scores: Scores, block: int) -> tuple[str, Values]:
    """(what a selection names, the score of each of its indices): of query heads for KV heads."""
    values = scores.widths[width.score][block]
    if width.each is not None:
        return width.key, values.ravel()
    axis = width.axis if width.axis in width.of else width.of[0]
    rest = tuple(i for i, other in enumerate(width.of) if other != axis)
    return axis, np.sqrt(np.square(values).sum(axis=rest)) if rest else values  # [size]


def kept_share(scores: Scores, block: int, kept: Kept | None) -> float:
    """The share of a block's channels or heads that stays: 0 where it is dropped, 1 where it is
    whole.
    """
    found = channel_scores(scores, block)
    if kept is None:
        return 0.0
    if found is None or found[0] not in kept:
        return 1.0
    return len(kept[found[0]]) / len(found[1])


def _ranked(width: Width) -> str:
    """What people call that which the scores of a width rank: query heads for KV heads."""
    return width.label if width.axis in width.of else width.coupled[0]


def _of_kind(
    kind: type[Block], pattern: str, scores: Scores, blocks: Sequence[Kept | None]
) -> Removal:
    all_of_kind = [i for i, letter in enumerate(pattern) if letter == kind.letter]
    dropped = [i for i in all_of_kind if blocks[i] is None]
    kept = [i for i in all_of_kind if blocks[i] is not None]
    where = ", ".join(map(str, dropped))
    return Removal(
        what=f"{kind.label} blocks",
        removed=scores.blocks[dropped],
        kept=scores.blocks[kept],
        lost=None,
        where=f"block {where}" if len(dropped) == 1 else f"blocks {where}" if dropped else "",
    )


def _of_width(width: Width, scores: Scores, blocks: Sequence[Kept | None]) -> Removal | None:
    """Channels of kept blocks, and of the kept ones of what has its own, only: the others went with
    what they are part of.
    """
    removed, kept, sizes = [], [], []
    for i, choice in enumerate(blocks):
        if choice is None or i not in scores.widths.get(width.score, {}):
            continue
        axis, values = _values(width, scores, i)
        stays: NDArray[np.bool_] = np.ones(values.shape, dtype=bool)
        if axis in choice:
            stays[:] = False
            stays[list(choice[axis])] = True
        if width.each is not None and width.each in choice:
            shape = scores.widths[width.score][i].shape
            wholes = list(choice[width.each])
            values = values.reshape(shape)[wholes].reshape(-1)
            stays = stays.reshape(shape)[wholes].reshape(-1)
        largest = values.max() or 1.0
        kept.append(values[stays] / largest)
        removed.append(values[~stays] / largest)
        sizes.append((int(stays.sum()), len(values)))
    if not kept:
        return None
    gone, left = np.concatenate(removed), np.concatenate(kept)
    squares = float(np.square(gone).sum())
    lost = squares / (squares + float(np.square(left).sum()) or 1.0)
    return Removal(
        what=_ranked(width),
        removed=gone,
        kept=left,
        lost=lost,
        where=_sizes(sizes) if len(gone) else "",
    )


def _of_stream(scores: Scores, hidden: Sequence[int]) -> Removal:
    """Hidden channels are the whole model's; their scores too are divided by the largest."""
    assert scores.hidden is not None
    values = scores.hidden / (scores.hidden.max() or 1.0)
    stays = np.zeros(len(values), dtype=bool)
    stays[list(hidden)] = True
    squares = np.square(values)
    lost = float(squares[~stays].sum() / (squares.sum() or 1.0))
    return Removal(
        what="hidden channels",
        removed=values[~stays],
        kept=values[stays],
        lost=lost,
        where=hidden_change(len(values), len(hidden)),
    )


def hidden_change(before: int, after: int) -> str:
    """Both hidden sizes in words."""
    return f"{before:,} to {after:,} in every block"


def _sizes(sizes: list[tuple[int, int]]) -> str:
    after = sorted({kept for kept, _ in sizes})
    before = max(size for _, size in sizes)
    return (
        f"{before:,} to {after[0]:,}" + ("" if len(after) == 1 else f"–{after[-1]:,}") + " a block"
    )
