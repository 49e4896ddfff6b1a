"""How many scores a block has, and which of its widths they rank."""

from __future__ import annotations

from math import prod

from minipuzzle.kinds import Block
from minipuzzle.kinds.width import Width


def width_of(block: Block) -> Width | None:
    """The width whose scores rank what a block keeps; None for a kind that never gets narrower.

    Raises: NotImplementedError for a kind whose widths are ranked by several arrays.
    """
    if len({width.score for width in block.widths}) > 1:
        raise NotImplementedError(f"several scores of the kind {block.kind!r}: one is collected")
    return block.widths[0] if block.widths else None


def score_count(block: Block) -> int:
    """How many scores a block has; 0 for a kind that never gets narrower."""
    width = width_of(block)
    return 0 if width is None else prod(width.score_shape(block))
