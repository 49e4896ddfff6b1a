"""Scores of a whole parent from arrays of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.artifacts import Scores
from minipuzzle.importance.points import width_of
from minipuzzle.importance.readings import Array


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
    named: Any = {"intermediate": {}, "head_channels": {}, "q_heads": {}}
    for i, (block, values) in enumerate(zip(parent.blocks, widths, strict=True)):
        width = width_of(block)
        if width is not None:
            named[width.score][i] = values.reshape(width.score_shape(block))
    return Scores(blocks=blocks, hidden=hidden, meta=meta, **named)
