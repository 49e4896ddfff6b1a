"""Scores of a whole parent from arrays of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.importance.points import width_of
from minipuzzle.importance.readings import Array
from minipuzzle.scores import Scores


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
