"""Damage curves: the sizes a block is narrowed to, and which channels or heads such a block
keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2
from minipuzzle.kinds.ranking import top, top_heads, top_kv_heads

FFN_SHARES = (0.25, 0.5, 0.75)
HEAD_SHARES = (0.5, 0.75)
MULTIPLE, SMALL_MULTIPLE = 64, 8


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
    """(axis, size) of each narrower form of a block that is measured, sizes ascending.

    FFN widths are multiples of 64 where a quarter of the width is one or more, else of 8; Mamba
    heads are equal in each group. A size that rounds to nothing or to the whole is left out.
    """
    if isinstance(block, FeedForward):
        multiple = MULTIPLE if block.intermediate >= 4 * MULTIPLE else SMALL_MULTIPLE
        return [("intermediate", n) for n in _sizes(block.intermediate, FFN_SHARES, multiple)]
    if isinstance(block, Mamba2):
        return [("heads", n) for n in _sizes(block.heads, HEAD_SHARES, block.groups)]
    assert isinstance(block, Attention)
    return [("kv_heads", n) for n in _sizes(block.kv_heads, (0.5,), 1)]


def variants(architecture: Architecture, index: int, curves: bool) -> list[Variant]:
    """The variants that begin at a block, its removal first, then that of a layer of several blocks
    which it ends.
    """
    narrow = narrowings(architecture.blocks[index]) if curves else []
    layer = (
        [Variant(block=index, layer=True)]
        if any(unit[1:] and unit[-1] == index for unit in architecture.units)
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
    if isinstance(block, FeedForward) and "intermediate" in widths:
        return {"intermediate": top(widths["intermediate"], variant.size)}
    if isinstance(block, Mamba2) and "head_channels" in widths:
        return {"heads": top_heads(widths["head_channels"], variant.size, block.groups)}
    if isinstance(block, Attention) and "q_heads" in widths:
        return top_kv_heads(widths["q_heads"], variant.size, block.kv_heads)
    return None


def _sizes(whole: int, shares: tuple[float, ...], multiple: int) -> list[int]:
    found = {int(whole * share / multiple + 0.5) * multiple for share in shares}
    return sorted(size for size in found if 0 < size < whole)
