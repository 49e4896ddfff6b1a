"""Damage curves: the sizes a block is narrowed to, and which channels or heads such a block
keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.importance.experts import find
from minipuzzle.kinds import Block, Width


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The parent with one block changed: taken out (``axis`` None), with the whole ``layer`` that
    it ends, or narrowed to ``size`` on an axis: to the best by its scores, or to all ``without``
    one index. An ``axis`` may be a format, and ``size`` the part of the block that is in it
    (``settings.bits``).
    """

    block: int
    axis: str | None = None
    size: int = 0
    without: int | None = None
    layer: bool = False


def narrowings(block: Block) -> list[tuple[str, int]]:
    """(axis, size) of each narrower form of a block that is measured, sizes of an axis
    ascending; none whose sizes contradict each other.
    """
    return [
        (width.axis, size)
        for width in block.searched
        for size in width.measured_sizes(block)
        if block.resized(**width.sizes(block, size)).fault() is None
    ]


def one_by_one(block: Block) -> Width | None:
    """The width whose indices are removed one after the other where experts are scored by damage:
    that of experts. None for a block without one, and where none can be spared.
    """
    for width in block.own_widths:
        size = block.sizes[width.axis] - width.step(block)
        if block.reads[width.score].way == "experts" and size > 0:
            return width if block.resized(**{width.axis: size}).fault() is None else None
    return None


def variants(
    architecture: Architecture,
    index: int,
    curves: bool,
    experts: str = "",
    formats: Sequence[tuple[str, int]] = (),
) -> list[Variant]:
    """The variants that begin at a block, its removal first, then that of a layer of several blocks
    which it ends; with ``curves`` its narrower forms, and the block without each expert where the
    estimator ``experts`` removes them; then the block with a part in a format, for each of
    ``formats``.
    """
    block = architecture.blocks[index]
    narrow = narrowings(block) if curves else []
    width = one_by_one(block) if experts and find(experts).measured else None
    size = 0 if width is None else block.sizes[width.axis]
    layer = (
        [Variant(block=index, layer=True)]
        if any(group[1:] and group[-1] == index for group in architecture.layer_groups)
        else []
    )
    return [
        Variant(block=index),
        *layer,
        *(Variant(block=index, axis=axis, size=size) for axis, size in narrow),
        *(
            Variant(block=index, axis=width.axis, size=size - 1, without=i)
            for i in range(size)
            if width is not None
        ),
        *(Variant(block=index, axis=name, size=part) for name, part in formats),
    ]


def kept(
    block: Block, variant: Variant, widths: Mapping[str, NDArray[np.float64]]
) -> dict[str, tuple[int, ...]] | None:
    """The best indices of a narrower block by its own ``widths`` scores; None where these do not
    rank its axis.
    """
    width = next(width for width in block.own_widths if width.axis == variant.axis)
    if variant.without is not None:
        whole = range(block.sizes[width.axis])
        return {width.axis: tuple(i for i in whole if i != variant.without)}
    if width.score not in widths:
        return None
    return width.keep(block, widths[width.score], variant.size)
