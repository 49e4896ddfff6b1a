"""Damage curves: the sizes a block is narrowed to, and which channels or heads such a block
keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Block


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The parent with one block changed: taken out (``axis`` None), with the whole ``layer`` that
    it ends, or narrowed to ``size`` on an axis.
    """

    block: int
    axis: str | None = None
    size: int = 0
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


def variants(architecture: Architecture, index: int, curves: bool) -> list[Variant]:
    """The variants that begin at a block, its removal first, then that of a layer of several blocks
    which it ends.
    """
    narrow = narrowings(architecture.blocks[index]) if curves else []
    layer = (
        [Variant(block=index, layer=True)]
        if any(group[1:] and group[-1] == index for group in architecture.layer_groups)
        else []
    )
    return [
        Variant(block=index),
        *layer,
        *(Variant(block=index, axis=axis, size=size) for axis, size in narrow),
    ]


def kept(
    block: Block, variant: Variant, widths: Mapping[str, NDArray[np.float64]]
) -> dict[str, tuple[int, ...]] | None:
    """The best indices of a narrower block by its own ``widths`` scores; None where these do not
    rank its axis.
    """
    width = next(width for width in block.searched if width.axis == variant.axis)
    if width.score not in widths:
        return None
    return width.keep(block, widths[width.score], variant.size)
