"""How a kind of block gets narrower: the one declaration that ranking, search, damage curves, masks
and checks read. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from minipuzzle.kinds.ranking import top

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
    whose indices keeps equally many. ``follows``: an axis of which each kept index takes its whole
    share along. ``label`` is what people call the axis, ``coupled`` what must be equal in number
    and in each of what. ``shares`` of the whole are the sizes that damage curves measure.
    ``searched``: the search chooses its size; otherwise only a selection names it.
    """

    axis: str
    score: str
    of: tuple[str, ...]
    label: str
    within: str | None = None
    follows: str | None = None
    coupled: tuple[str, str] = ("", "")
    shares: tuple[float, ...] = ()
    searched: bool = True

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that shrink: this one and the one that follows."""
        return (self.axis,) if self.follows is None else (self.follows, self.axis)

    @property
    def coupling(self) -> tuple[str | None, str]:
        """(parts, whole): each kept index of ``whole`` keeps equally many of ``parts``; (None, "")
        where the axis is free.
        """
        if self.within is not None:
            return self.axis, self.within
        return (None, "") if self.follows is None else (self.follows, self.axis)

    def score_shape(self, block: Sized) -> tuple[int, ...]:
        """The shape of the array that ranks this axis in a block."""
        return tuple(block.sizes[axis] for axis in self.of)

    def step(self, block: Sized) -> int:
        """Sizes of the axis are multiples of it."""
        return 1 if self.within is None else block.sizes[self.within]

    def strength(self, block: Sized, values: Array) -> Array:
        """[size of the axis] float64: what each index is worth by ``values`` [of]."""
        if self.axis in self.of:
            others = tuple(i for i, axis in enumerate(self.of) if axis != self.axis)
            return np.sqrt(np.square(values).sum(axis=others)) if others else values
        parts = values.reshape(block.sizes[self.axis], -1)  # [indices, parts of each]
        return np.sqrt(np.square(parts).sum(axis=1))

    def keep(self, block: Sized, values: Array, size: int) -> dict[str, tuple[int, ...]]:
        """The ``size`` best indices by ``values`` [of], ascending, equally many in each group, and
        with them those of the axis that follows.
        """
        groups = self.step(block)
        ranked = self.strength(block, values).reshape(groups, -1)  # [groups, indices in each]
        each = ranked.shape[1]
        best = tuple(g * each + i for g in range(groups) for i in top(ranked[g], size // groups))
        if self.follows is None:
            return {self.axis: best}
        share = block.sizes[self.follows] // block.sizes[self.axis]
        follows = tuple(index * share + i for index in best for i in range(share))
        return {self.axis: best, self.follows: follows}

    def sizes(self, block: Sized, size: int) -> dict[str, int]:
        """The sizes of ``axes`` where this one has ``size``."""
        if self.follows is None:
            return {self.axis: size}
        share = block.sizes[self.follows] // block.sizes[self.axis]
        return {self.axis: size, self.follows: size * share}
