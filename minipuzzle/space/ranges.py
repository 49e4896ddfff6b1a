"""The choices. MiniPuzzle's are global: how many blocks of each kind, one size of each axis that a
kind declares for all blocks of the kind, one hidden size.

Source: arXiv:2504.03624; the paper's grid of widths is 75 % to 100 % of the parent's in steps of
1/32 (24576..32768 by 1024). The ranges of the counts are not published; those of ``levels`` are
ours (docs/decisions/bounds-of-the-grid.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from minipuzzle.arch import Architecture
from minipuzzle.arch.narrow import resized
from minipuzzle.errors import UserError
from minipuzzle.kinds import Block
from minipuzzle.kinds.rounding import least_count
from minipuzzle.settings import SearchSettings
from minipuzzle.settings.bits import AXIS
from minipuzzle.space.level import Level
from minipuzzle.space.sizes import (
    axis_sizes,
    contradicted,
    first_blocks,
    hidden_sizes,
    left_whole,
    thinned,
    tried,
)

MOST = 2_000_000
"""Points of a grid at one hidden size, where the settings name no sizes: some seconds of work."""


@dataclass(frozen=True, kw_only=True, order=True)
class Shape:
    """A point of the grid: (kind, blocks of it), (axis, size of it in all blocks that have it),
    each in the order of names, and the hidden size. An axis that is not named stays whole.
    """

    counts: tuple[tuple[str, int], ...]
    sizes: tuple[tuple[str, int], ...]
    hidden: int

    @staticmethod
    def of(counts: Mapping[str, int], sizes: Mapping[str, int], hidden: int) -> Shape:
        """The shape of counts by kind and sizes by axis."""
        return Shape(
            counts=tuple(sorted(counts.items())), sizes=tuple(sorted(sizes.items())), hidden=hidden
        )

    def plain(self) -> dict[str, int]:
        """For JSON: counts by kind, sizes by axis and "hidden", side by side."""
        return {**dict(self.counts), **dict(self.sizes), "hidden": self.hidden}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Inclusive ranges of counts by kind, sizes to try by axis and hidden sizes to try, ascending.

    ``layers``: where blocks stay or go as layers of two, the kinds of the first and of the second
    block of every sort of layer; there are as many second blocks as first ones of their layers.
    """

    counts: Mapping[str, tuple[int, int]]
    sizes: Mapping[str, tuple[int, ...]]
    hidden: tuple[int, ...]
    layers: tuple[tuple[str, str], ...] = ()

    @property
    def points(self) -> int:
        """The number of grid points."""
        sizes = [len(sizes) for sizes in self.sizes.values()]
        return len(self.count_points()) * prod(sizes) * len(self.hidden)

    def count_points(self) -> np.ndarray:
        """[n, kinds] int64: every combination of counts that keeps layers whole."""
        ranges = [np.arange(low, high + 1) for low, high in self.counts.values()]
        axes = np.meshgrid(*ranges, indexing="ij")
        points = np.stack([axis.reshape(-1) for axis in axes], axis=1).astype(np.int64)
        column = {kind: points[:, i] for i, kind in enumerate(self.counts)}
        for second in dict.fromkeys(second for _, second in self.layers):
            firsts = [column[first] for first, other in self.layers if other == second]
            points = points[column[second] == sum(firsts)]
            column = {kind: points[:, i] for i, kind in enumerate(self.counts)}
        return points

    def plain(self) -> dict[str, Any]:
        """For JSON: ranges by kind, sizes by axis and "hidden", side by side."""
        paired = bool(self.layers)
        return {**self.counts, **self.sizes, "hidden": self.hidden, "paired": paired}


def bounds(
    parent: Architecture, level: Level, settings: SearchSettings, *, grid: bool = True
) -> Bounds:
    """The space of a level: the ``grid`` of sizes that all blocks share, or the sizes that the
    solver may choose from. Axes that the settings do not switch on stay whole, as does the hidden
    size. Of a model of which a token uses a part, which has many axes, a grid of more than MOST
    points at a hidden size has fewer sizes of the axes that have most.

    Raises: UserError for layers that have one first kind and several second ones.
    """
    blocks, chosen = first_blocks(parent), settings.formats
    counts = {kind: parent.count(kind) for kind in blocks}
    least = {kind: least_count(n, level.blocks[kind]) for kind, n in counts.items()}
    least |= {kind: max(1, least[kind]) for kind in parent.rules.needs}
    found = Bounds(
        counts={kind: (least[kind], n) for kind, n in counts.items()},
        sizes={
            width.axis: axis_sizes(parent, block, width, level.width, settings)
            for block in blocks.values()
            for width in tried(block, settings)
            if width.in_grid or not grid
        }
        | ({AXIS: tuple(chosen)} if chosen else {}),
        hidden=hidden_sizes(parent, level.hidden, settings),
        layers=_layers(parent),
    )
    dense = parent.active_if_fewer is None
    if not grid or dense or found.points <= MOST * len(found.hidden):
        return found
    most = max(1, MOST // len(found.count_points()))
    return replace(found, sizes=thinned(found.sizes, {*settings.varied, AXIS}, most))


def left_out(
    parent: Architecture, level: Level, settings: SearchSettings, space: Bounds
) -> tuple[str, ...]:
    """Sentences on what a grid leaves out: sizes for its own size; of a model of which a token uses
    a part, which has many axes, those that stay whole.
    """
    found, whole = [], [width.label for width in left_whole(parent, settings)]
    if whole and parent.active_if_fewer is not None:
        found.append(f"kept whole, as search.vary does not name them: {', '.join(whole)}")
    every = {
        width.axis: axis_sizes(parent, block, width, level.width, settings)
        for block in first_blocks(parent).values()
        for width in tried(block, settings)
    }
    for block in first_blocks(parent).values():
        own = {axis: sizes for axis, sizes in space.sizes.items() if axis in block.sizes}
        for axis in [axis for axis in own if axis in settings.varied]:
            for size, (said, allowed) in contradicted(block, own, axis).items():
                found.append(f"{axis}={size} is not tried: {said} ({allowed})")
    fewer = [
        f"{axis} {len(sizes)} of {len(every[axis])}"
        for axis, sizes in space.sizes.items()
        if axis in every and len(sizes) < len(every[axis])
    ]
    if fewer:
        found.append(
            f"not every size is tried, for the size of the grid: {', '.join(fewer)}; search.vary"
            " names others"
        )
    return tuple(found)


def shape_architecture(parent: Architecture, shape: Shape) -> Architecture:
    """An architecture with the shape's counts and sizes (the first blocks of each kind: they cost
    the same).
    """
    left, sizes = dict(shape.counts), dict(shape.sizes)
    blocks: list[Block] = []
    for block in parent.blocks:
        if left[block.kind] > 0:
            left[block.kind] -= 1
            blocks.append(resized(block, sizes))
    return replace(parent, blocks=tuple(blocks)).at_hidden(shape.hidden)


def check_uniform(parent: Architecture) -> None:
    """Raises: UserError for a parent whose blocks of one kind differ: a grid of global widths has
    no place for it.
    """
    if not parent.homogeneous:
        raise UserError(
            "The grid search wants a parent whose blocks of one kind have the same sizes.",
            got="different sizes",
            allowed="one size of each axis in all blocks of a kind",
            next="Search on the checkpoint that this one was cut from.",
        )


def _layers(parent: Architecture) -> tuple[tuple[str, str], ...]:
    pairs = [
        tuple(parent.blocks[i].kind for i in group)
        for group in parent.layer_groups
        if len(group) > 1
    ]
    sorts = tuple((first, second) for first, second in dict.fromkeys(pairs))
    if len(dict(sorts)) < len(sorts):
        raise UserError(
            "The grid search wants layers whose second block follows from the first.",
            got=", ".join(f"{first} with {second}" for first, second in sorts),
            allowed="one kind of second block for each kind of first block",
            next="Search on a model whose layers are of such sorts.",
        )
    return sorts
