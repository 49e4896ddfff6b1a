"""Whether scores are of a model's shape. No torch."""

from __future__ import annotations

from minipuzzle.arch import Architecture
from minipuzzle.artifacts import WIDTHS, Scores
from minipuzzle.nas.damage import AXES


def misfit(scores: Scores, parent: Architecture) -> str:
    """Where scores and a model differ, in words; empty where they fit."""
    blocks = len(parent.blocks)
    if len(scores.blocks) != blocks:
        return f"scores of {len(scores.blocks)} blocks"
    if scores.layers is not None and blocks % len(scores.layers):
        return f"scores of {len(scores.layers)} layers for {blocks} blocks"
    if scores.hidden is not None and len(scores.hidden) != parent.hidden:
        return f"scores of {len(scores.hidden)} hidden channels"
    for i, block in enumerate(parent.blocks):
        wanted = {width.score: width.score_shape(block) for width in block.widths}
        for axis in WIDTHS:
            values = getattr(scores, axis).get(i)
            shape = None if values is None else values.shape
            # A score of old has none of attention heads.
            if shape != wanted.get(axis) and not (shape is None and axis == "q_heads"):
                return f"scores {axis} of block {i}: {shape or 'none'}"
        axis, curves = AXES[block.kind], scores.curves.get(i, {})
        if set(curves) - {axis} or any(
            sizes[-1] >= block.sizes[axis] for sizes, _ in curves.values()
        ):
            return f"a curve of block {i}: {', '.join(curves)}"
    return ""
