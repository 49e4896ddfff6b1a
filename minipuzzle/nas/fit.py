"""Whether scores are of a model's shape. No torch."""

from __future__ import annotations

from minipuzzle.arch import Architecture
from minipuzzle.nas.damage import AXES
from minipuzzle.scores import Scores


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
        wanted, found = block.score_shapes, scores.of(i)
        for name in {**wanted, **found}:
            shape = found[name].shape if name in found else None
            # A score of old has none of attention heads.
            if shape != wanted.get(name) and not (shape is None and name == "q_heads"):
                return f"scores {name} of block {i}: {shape or 'none'}"
        axis, curves = AXES[block.kind], scores.curves.get(i, {})
        if set(curves) - {axis} or any(
            sizes[-1] >= block.sizes[axis] for sizes, _ in curves.values()
        ):
            return f"a curve of block {i}: {', '.join(curves)}"
    return ""
