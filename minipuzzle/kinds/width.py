"""How a kind of block gets narrower: the one declaration that ranking, search, damage curves, masks
and checks read. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from minipuzzle.kinds.axes import Kept
from minipuzzle.kinds.rounding import MULTIPLE, SMALL_MULTIPLE, least_count, rounded_sizes

Array = NDArray[np.float64]


class Sized(Protocol):
    """What has axes of known sizes: a block."""

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""


@dataclass(frozen=True, kw_only=True)
class Width:
    """One axis that gets narrower, and what ranks its indices.

    ``score`` names the array of scores, ``of`` the axes of its dimensions. An index is worth the L2
    norm over all values it is made of (arXiv:2504.11409, section 3.1). ``within``: an axis each of
    whose indices keeps equally many. ``each``: an axis each of whose indices keeps its own, equally
    many. ``ordered``: the first ones stay, whatever the scores. ``follows``: an axis of which each
    kept index takes its whole share along. ``label`` is what people call the axis, ``coupled`` what
    must be equal in number and in each of what. ``shares`` of the whole are the sizes that damage
    curves measure.

    ``searched``: the search chooses its size; otherwise only a selection names it. ``candidates``
    are the sizes it chooses from: "every" multiple of ``step``, "parts" of the whole in 32 steps
    rounded to ``step``, sizes "rounded" to the multiple that the settings name, or "divisors" of
    the whole. ``switch`` names the search setting without which it stays whole ("": it needs none;
    "vary": that setting has to name the axis). ``in_grid``: the grid of sizes that all blocks share
    varies it; otherwise only the solver does. ``per_block`` is (setting, value): with that value
    the solver gives each block its own size; None: all blocks of the kind share one.
    """

    axis: str
    score: str
    of: tuple[str, ...]
    label: str
    within: str | None = None
    each: str | None = None
    ordered: bool = False
    follows: str | None = None
    coupled: tuple[str, str] = ("", "")
    shares: tuple[float, ...] = ()
    searched: bool = True
    candidates: Literal["every", "parts", "rounded", "divisors"] = "every"
    switch: str = ""
    in_grid: bool = True
    per_block: tuple[str, bool] | None = None

    @property
    def usual(self) -> bool:
        """Whether a search is about it without being told."""
        return self.searched and self.switch != "vary"

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that shrink: this one and the one that follows."""
        return (self.axis,) if self.follows is None else (self.follows, self.axis)

    @property
    def key(self) -> str:
        """Under this name a selection has the kept indices (``kinds.axes``)."""
        return self.axis if self.each is None else f"{self.each}*{self.axis}"

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of what a selection keeps: of this axis and of the one that follows."""
        return (self.key,) if self.follows is None else (self.follows, self.key)

    @property
    def coupling(self) -> tuple[str | None, str]:
        """(parts, whole): each kept index of ``whole`` keeps equally many of ``parts``, as a
        selection names them; (None, "") where the axis is free.
        """
        if self.each is not None:
            return self.key, self.each
        if self.within is not None:
            return self.axis, self.within
        return (None, "") if self.follows is None else (self.follows, self.axis)

    def score_shape(self, block: Sized) -> tuple[int, ...]:
        """The shape of the array that ranks this axis in a block."""
        return tuple(block.sizes[axis] for axis in self.of)

    def step(self, block: Sized) -> int:
        """Sizes of the axis are multiples of it."""
        return 1 if self.within is None else block.sizes[self.within]

    def candidate_sizes(self, block: Sized, share: float, multiple: int) -> tuple[int, ...]:
        """The sizes that a search may choose from ``share`` of the whole on, ascending; the whole
        is the last. ``share`` bounds no divisors.
        """
        whole, step = block.sizes[self.axis], self.step(block)
        if self.candidates == "divisors":
            return tuple(size for size in range(1, whole + 1) if whole % size == 0)
        if self.candidates in ("rounded", "parts"):
            return rounded_sizes(whole, share, multiple if self.candidates == "rounded" else step)
        parts = whole // step
        return tuple(k * step for k in range(max(1, least_count(parts, share)), parts + 1))

    def nearest(self, block: Sized, share: float, smallest: float) -> int:
        """The candidate size that is nearest to ``share`` of the whole, where ``smallest`` is the
        least share that is asked for.
        """
        whole, multiple = block.sizes[self.axis], self._multiple(block, smallest)
        if self.candidates == "divisors":
            sizes = self.candidate_sizes(block, 0.0, multiple)
            return min(sizes, key=lambda size: abs(size - whole * share))
        return min(whole, max(multiple, round(whole * share / multiple) * multiple))

    def measured_sizes(self, block: Sized) -> tuple[int, ...]:
        """The sizes that damage curves measure, ascending: ``shares`` of the whole, rounded; none
        that rounds to nothing or to the whole.
        """
        whole, multiple = (
            block.sizes[self.axis],
            self._multiple(block, min(self.shares, default=1.0)),
        )
        found = {int(whole * share / multiple + 0.5) * multiple for share in self.shares}
        return tuple(sorted(size for size in found if 0 < size < whole))

    def _multiple(self, block: Sized, smallest: float) -> int:
        """Of this are sizes that are measured: ``step``, or of "rounded" ones 64 where the
        ``smallest`` share of the whole is 64 or more, else 8.
        """
        if self.candidates != "rounded":
            return self.step(block)
        whole = block.sizes[self.axis]
        return MULTIPLE if whole * smallest >= MULTIPLE else SMALL_MULTIPLE

    def strength(self, block: Sized, values: Array) -> Array:
        """[size of the axis] float64: what each index is worth by ``values`` [of]."""
        if self.axis in self.of:
            others = tuple(i for i, axis in enumerate(self.of) if axis != self.axis)
            return np.sqrt(np.square(values).sum(axis=others)) if others else values
        parts = values.reshape(block.sizes[self.axis], -1)  # [indices, parts of each]
        return np.sqrt(np.square(parts).sum(axis=1))

    def keep(
        self, block: Sized, values: Array, size: int, others: Kept | None = None
    ) -> dict[str, tuple[int, ...]]:
        """The ``size`` best indices by ``values`` [of], ascending, equally many in each group, and
        with them those of the axis that follows. ``others`` are kept already.
        """
        if self.ordered:
            return {self.key: tuple(range(size))}
        if self.each is not None:
            rows = (others or {}).get(self.each, range(block.sizes[self.each]))
            whole = block.sizes[self.axis]
            own = (row * whole + i for row in rows for i in top(values[row], size))
            return {self.key: tuple(own)}
        groups = self.step(block)
        ranked = self.strength(block, values).reshape(groups, -1)  # [groups, indices in each]
        each = ranked.shape[1]
        best = tuple(g * each + i for g in range(groups) for i in top(ranked[g], size // groups))
        if self.follows is None:
            return {self.axis: best}
        share = block.sizes[self.follows] // block.sizes[self.axis]
        follows = tuple(index * share + i for index in best for i in range(share))
        return {self.axis: best, self.follows: follows}

    def lost(self, block: Sized, values: Array) -> Array:
        """[size of the axis + 1] float64: the share of the squared scores ``values`` [of] that is
        lost when the best 0, 1, ... indices are kept.
        """
        groups = self.step(block)
        if self.ordered or self.each is not None:
            ranked = values.reshape(-1, block.sizes[self.axis])  # [indices of each, own indices]
        else:
            ranked = self.strength(block, values).reshape(groups, -1)  # [groups, indices in each]
        squares = np.square(ranked if self.ordered else -np.sort(-ranked, axis=1))
        whole = squares.sum()
        kept = np.concatenate([[0.0], np.cumsum(squares.sum(axis=0))])  # [indices in each + 1]
        lost = 1 - kept / whole if whole > 0 else np.zeros(len(kept))
        lost[-1] = 0.0  # rounding apart
        return np.repeat(lost, groups)

    def sizes(self, block: Sized, size: int) -> dict[str, int]:
        """The sizes of ``axes`` where this one has ``size``."""
        if self.follows is None:
            return {self.axis: size}
        share = block.sizes[self.follows] // block.sizes[self.axis]
        return {self.axis: size, self.follows: size * share}


def top(values: Array, count: int) -> tuple[int, ...]:
    """The positions of the ``count`` largest values, ascending; of equal values the first ones."""
    order = np.argsort(-values, kind="stable")[:count]
    return tuple(np.sort(order).tolist())
