"""The choices. MiniPuzzle's are global: how many blocks of each kind, one size of each axis that a
kind declares for all blocks of the kind, one hidden size.

Source: arXiv:2504.03624; the paper's grid of widths is 75 % to 100 % of the parent's in steps of
1/32 (24576..32768 by 1024). The ranges of the counts are not published; those of ``levels`` are
ours (docs/decisions/bounds-of-the-grid.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minipuzzle.arch import Architecture
from minipuzzle.arch.narrow import offered, resized
from minipuzzle.errors import UserError
from minipuzzle.kinds import KINDS, Block, Width
from minipuzzle.kinds.base import OTHERS
from minipuzzle.kinds.rounding import MULTIPLE, SMALL_MULTIPLE, least_count, rounded_sizes
from minipuzzle.settings import SearchSettings

HIDDEN_STEPS = 16
"""Hidden sizes are sixteenths of the parent's (4096: steps of 256, as in arXiv:2504.11409), rounded
for matrix units.
"""


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
        return len(self.count_points()) * int(np.prod(sizes, dtype=np.int64)) * len(self.hidden)

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


@dataclass(frozen=True, kw_only=True)
class Level:
    """Least shares of the parent: of its ``blocks`` by kind, of widths and heads, of hidden."""

    blocks: Mapping[str, float]
    width: float
    hidden: float


WIDTH_LEVELS = (0.75, 0.5, 0.25)
HIDDEN_LEVELS = (0.75, 0.5, 0.25)
"""As ``Block.min_keep``: the levels are tried in order, the first that reaches the budget is the
space. The first is for cuts such as 56B -> 47B.
"""


def levels(min_keep: Sequence[str]) -> tuple[Level, ...]:
    """The levels of the space, with the shares that ``min_keep`` names ("width=50%") in place of
    their own. Names are "width", "hidden", any kind, or "others" for kinds without a share of their
    own.

    Raises: UserError for a name or share that has no meaning.
    """
    given = dict(_share(text) for text in min_keep)
    return tuple(
        Level(
            blocks={name: _least_blocks(name, number, given) for name in KINDS},
            width=given.get("width", width),
            hidden=given.get("hidden", hidden),
        )
        for number, (width, hidden) in enumerate(zip(WIDTH_LEVELS, HIDDEN_LEVELS, strict=True))
    )


def bounds(
    parent: Architecture, level: Level, settings: SearchSettings, *, grid: bool = True
) -> Bounds:
    """The space of a level: the ``grid`` of sizes that all blocks share, or the sizes that the
    solver may choose from. Axes that the settings do not switch on stay whole, as does the hidden
    size.

    Raises: UserError for layers that have one first kind and several second ones.
    """
    blocks = _first_blocks(parent)
    counts = {kind: parent.count(kind) for kind in blocks}
    return Bounds(
        counts={kind: (least_count(n, level.blocks[kind]), n) for kind, n in counts.items()},
        sizes={
            width.axis: (
                offered(block, width, parent.rules, level.width, settings.multiple)
                if switched(width, settings)
                else (block.sizes[width.axis],)
            )
            for block in blocks.values()
            for width in block.searched
            if width.in_grid or not grid
        },
        hidden=hidden_sizes(parent, level.hidden) if settings.hidden_size else (parent.hidden,),
        layers=_layers(parent),
    )


def switched(width: Width, settings: SearchSettings) -> bool:
    """Whether a search may shrink this axis."""
    return not width.switch or bool(getattr(settings, width.switch))


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


def hidden_sizes(parent: Architecture, share: float) -> tuple[int, ...]:
    """The hidden sizes from ``share`` of the parent's on that its family's files can say."""
    multiple = MULTIPLE if parent.hidden >= HIDDEN_STEPS * MULTIPLE else SMALL_MULTIPLE
    sizes = rounded_sizes(parent.hidden, share, multiple, HIDDEN_STEPS)
    return tuple(size for size in sizes if parent.rules.allows_hidden(parent.blocks, size))


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


def check_asked(parent: Architecture, settings: SearchSettings) -> None:
    """Raises: UserError for an option that asks for what the parent's family can't write."""
    refused = [
        name
        for block in _first_blocks(parent).values()
        for width in block.searched
        for name in _refused(parent, block, width, settings)
    ]
    if settings.hidden_size and len(hidden_sizes(parent, 0.0)) == 1:
        refused.append("hidden_size")
    for name in refused:
        option = f"search.{name}"
        raise UserError(
            f"{option} asks for what a checkpoint of this family can't say.",
            got=option,
            allowed="; ".join(parent.rules.sentences()),
            next=f"Search without {option}.",
        )


def _refused(
    parent: Architecture, block: Block, width: Width, settings: SearchSettings
) -> list[str]:
    """The settings about an axis that the family's rules leave without effect."""
    rules, found = parent.rules, []
    if width.switch and switched(width, settings):
        sizes = offered(block, width, rules, 0.0, settings.multiple)
        free = width.candidate_sizes(block, 0.0, settings.multiple)
        if width.axis in rules.fixed or len(sizes) == 1 < len(free):
            found.append(width.switch)
    if width.per_block is not None and not rules.per_block_sizes:
        name, value = width.per_block
        if value and getattr(settings, name):
            found.append(name)
    return found


def _first_blocks(parent: Architecture) -> dict[str, Block]:
    """The first block of each kind that the parent has, in the order in which kinds are declared:
    that of the grid's columns.
    """
    return {name: parent.blocks[parent.indices(name)[0]] for name in KINDS if name in parent.kinds}


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


def _share(text: str) -> tuple[str, float]:
    """("width", 0.5) of "width=50%". Raises: UserError for another text."""
    own = [name for name, kind in KINDS.items() if kind.min_keep != OTHERS]
    together = [name for name in KINDS if name not in own]
    match = re.fullmatch(r"(\w+)=([0-9]+(?:\.[0-9]+)?)%", text.strip())
    names = {*KINDS, "others", "width", "hidden"}
    if match is None or match[1] not in names or not 0 <= float(match[2]) <= 100:
        raise UserError(
            f"{text!r} does not bound the space.",
            got=text,
            allowed=(
                f"{'=S%, '.join(own)}=S% and others=S% (blocks), {'=S%, '.join(together)}=S%"
                " (blocks of one kind of the others), width=S% (channels and heads), hidden=S%"
            ),
            next="Write for example width=50% for search.min_keep.",
        )
    return match[1], float(match[2]) / 100


def _least_blocks(name: str, level: int, given: Mapping[str, float]) -> float:
    """The least share of a kind's blocks: as given for it, else for all of its sort, else its
    own.
    """
    kind = KINDS[name]
    own = kind.min_keep[level]
    return given.get(name, given.get("others", own) if kind.min_keep == OTHERS else own)
