"""Which widths of a block are scored, and the scores of a whole parent from its blocks' arrays."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.importance.readings import Array
from minipuzzle.kinds import Block
from minipuzzle.kinds.width import Width
from minipuzzle.scores import Scores


def width_of(block: Block) -> Width | None:
    """The width whose scores rank what a block keeps; None for a kind that never gets narrower.

    Raises: NotImplementedError for a kind whose widths are ranked by several arrays.
    """
    if len({width.score for width in block.searched}) > 1:
        raise NotImplementedError(f"several scores of the kind {block.kind!r}: one is collected")
    return block.widths[0] if block.widths else None


def score_count(block: Block) -> int:
    """How many scores a block has; 0 for a kind that never gets narrower."""
    width = width_of(block)
    return 0 if width is None else prod(width.score_shape(block))


def as_scores(
    parent: Architecture,
    *,
    blocks: Array,
    widths: Sequence[Array],
    hidden: Array,
    meta: dict[str, Any],
) -> Scores:
    """Scores with the flat array ``widths[i]`` of each block in the shape that its kind declares;
    blocks [n_blocks], hidden [hidden].
    """
    named: dict[str, dict[int, Array]] = {}
    for i, (block, values) in enumerate(zip(parent.blocks, widths, strict=True)):
        width = width_of(block)
        if width is not None:
            named.setdefault(width.score, {})[i] = values.reshape(width.score_shape(block))
    return Scores(blocks=blocks, widths=named, hidden=hidden, meta=meta)
