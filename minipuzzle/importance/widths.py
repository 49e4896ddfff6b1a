"""The scores of a whole parent from its blocks' arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.importance.readings import Array
from minipuzzle.kinds import Block
from minipuzzle.scores import Scores


def score_count(block: Block, name: str) -> int:
    """How many scores an array of a block has."""
    return prod(block.score_shapes[name])


def as_scores(
    parent: Architecture,
    *,
    blocks: Array,
    widths: Sequence[Mapping[str, Array]],
    hidden: Array,
    meta: dict[str, Any],
) -> Scores:
    """Scores with the flat arrays ``widths[i]`` of each block, by their names, in the shapes that
    its kind declares; blocks [n_blocks], hidden [hidden].
    """
    named: dict[str, dict[int, Array]] = {}
    for i, (block, arrays) in enumerate(zip(parent.blocks, widths, strict=True)):
        for name, values in arrays.items():
            named.setdefault(name, {})[i] = values.reshape(block.score_shapes[name])
    return Scores(blocks=blocks, widths=named, hidden=hidden, meta=meta)
