"""Whether scores are of a model's shape. No torch."""

from __future__ import annotations

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Block
from minipuzzle.scores import Scores
from minipuzzle.settings.bits import BITS, BOTH


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
        if fault := _misfit_of_block(scores, i, block):
            return fault
    return ""


def _misfit_of_block(scores: Scores, index: int, block: Block) -> str:
    wanted, found, axes = block.score_shapes, scores.of(index), dict.fromkeys(BITS, BOTH + 1)
    for width in block.searched:
        axes[width.axis] = block.sizes[width.axis]
    for name in {**wanted, **found}:
        shape = found[name].shape if name in found else None
        if shape is None and name in spare(block):
            continue
        if shape != wanted.get(name):
            return f"scores {name} of block {index}: {shape or 'none'}"
    curves = scores.curves.get(index, {})
    if any(axis not in axes or sizes[-1] >= axes[axis] for axis, (sizes, _) in curves.items()):
        return f"a curve of block {index}: {', '.join(curves)}"
    return ""


def spare(block: Block) -> set[str]:
    """The names of scores that older files may lack: of axes that the grid leaves whole."""
    needed = {width.score for width in block.searched if width.usual and width.in_grid}
    return set(block.score_shapes) - needed
