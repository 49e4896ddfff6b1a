"""The points of a space as one array, a column for each kind's count, each axis's size and the
hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.arch.narrow import resized
from minipuzzle.kinds import Block
from minipuzzle.settings.bits import AXIS
from minipuzzle.space import Bounds, Shape

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """``points`` [n, kinds + axes + 1] int64: counts of ``kinds``, sizes of ``axes``, hidden
    sizes.
    """

    kinds: tuple[str, ...]
    axes: tuple[str, ...]
    points: Ints

    def __len__(self) -> int:
        return len(self.points)

    def column(self, name: str) -> Ints:
        """[n]: the counts of a kind, the sizes of an axis, or "hidden"."""
        return self.points[:, (*self.kinds, *self.axes, "hidden").index(name)]

    def where(self, mask: Mask | Ints) -> Grid:
        """The points of a mask [n] or of indices."""
        return replace(self, points=self.points[mask])

    def changed(self, **columns: Ints) -> Grid:
        """A copy with other columns [n], by their names."""
        points = self.points.copy()
        for name, values in columns.items():
            points[:, (*self.kinds, *self.axes, "hidden").index(name)] = values
        return replace(self, points=points)

    def shape(self, index: int) -> Shape:
        """One point."""
        values = [int(value) for value in self.points[index]]
        counts, sizes = values[: len(self.kinds)], values[len(self.kinds) : -1]
        return Shape.of(
            dict(zip(self.kinds, counts, strict=True)),
            dict(zip(self.axes, sizes, strict=True)),
            values[-1],
        )

    def by_hidden(self) -> Iterator[tuple[int, Mask]]:
        """(hidden size, the points [n] that have it), ascending."""
        for hidden in np.unique(self.column("hidden")):
            yield int(hidden), self.column("hidden") == hidden

    def by_bits(self) -> Iterator[tuple[int | None, Mask]]:
        """(bits of all blocks, the points [n] that have them); None where bits are no axis."""
        if AXIS not in self.axes:
            yield None, np.ones(len(self), dtype=bool)
            return
        for bits in np.unique(self.column(AXIS)):
            yield int(bits), self.column(AXIS) == bits

    def forms(self, parent: Architecture, kind: str) -> tuple[list[Block], Ints]:
        """(a block of a kind for each combination of sizes that occurs, [n] which of them a point
        has). All blocks of a kind cost the same, or less than the one that remembers most: where
        some have a sliding window, a point counts as if none had.
        """
        of_kind = [block for block in parent.blocks if block.kind == kind]
        block = max(of_kind, key=lambda block: block.cache(parent.max_positions).kv)
        axes = [width.axis for width in block.searched if width.axis in self.axes]
        rows, which = self._distinct(axes)
        return [resized(block, dict(zip(axes, row, strict=True))) for row in rows], which

    def _distinct(self, axes: list[str]) -> tuple[list[tuple[int, ...]], Ints]:
        """(the sizes of ``axes`` that occur side by side, ascending; [n] which of them a point
        has).
        """
        found, code = [], np.zeros(len(self), dtype=np.int64)
        for axis in axes:
            values, place = np.unique(self.column(axis), return_inverse=True)
            code = code * len(values) + place  # [n], the combinations in row-major order
            found.append(values)
        codes, which = np.unique(code, return_inverse=True)
        if not axes:
            return [()] * len(codes), which
        places = np.unravel_index(codes, [len(values) for values in found])
        columns = [values[place] for values, place in zip(found, places, strict=True)]
        return list(zip(*(column.tolist() for column in columns), strict=True)), which


def grid(bounds: Bounds) -> Grid:
    """All points of a space."""
    counts, kinds = bounds.count_points(), len(bounds.counts)
    sizes = [np.asarray(values) for values in (*bounds.sizes.values(), bounds.hidden)]
    shape = (len(counts), *map(len, sizes))
    points = np.empty((*shape, kinds + len(sizes)), dtype=np.int64)
    points[..., :kinds] = counts.reshape(len(counts), *(1,) * len(sizes), kinds)
    for place, values in enumerate(sizes):  # each column repeats along the other dimensions
        points[..., kinds + place] = values.reshape(-1, *(1,) * (len(sizes) - place - 1))
    return Grid(
        kinds=tuple(bounds.counts),
        axes=tuple(bounds.sizes),
        points=points.reshape(-1, kinds + len(sizes)),
    )
