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

    def forms(self, parent: Architecture, kind: str) -> Iterator[tuple[Block, Mask]]:
        """(a block of a kind, the points [n] whose blocks of the kind are so), for each combination
        of sizes that occurs. All blocks of a kind cost the same.
        """
        block = parent.blocks[parent.indices(kind)[0]]
        axes = [width.axis for width in block.searched if width.axis in self.axes]
        columns = [self.column(axis) for axis in axes]
        for values in combinations(columns):
            here = np.ones(len(self), dtype=bool)
            for column, value in zip(columns, values, strict=True):
                here &= column == value
            yield resized(block, dict(zip(axes, values, strict=True))), here


def combinations(columns: list[Ints]) -> list[tuple[int, ...]]:
    """The rows that occur side by side in ``columns``, ascending; one empty row for no column."""
    if not columns:
        return [()]
    return [tuple(int(v) for v in row) for row in np.unique(np.stack(columns, axis=1), axis=0)]


def grid(bounds: Bounds) -> Grid:
    """All points of a space."""
    counts = bounds.count_points()
    sizes = [np.asarray(values) for values in (*bounds.sizes.values(), bounds.hidden)]
    axes = np.meshgrid(np.arange(len(counts)), *sizes, indexing="ij")
    flat = [axis.reshape(-1) for axis in axes]
    points = np.concatenate([counts[flat[0]], np.stack(flat[1:], axis=1)], axis=1)
    return Grid(
        kinds=tuple(bounds.counts), axes=tuple(bounds.sizes), points=points.astype(np.int64)
    )
