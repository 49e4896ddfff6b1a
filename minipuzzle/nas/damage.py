"""What narrowing one block is predicted to do, from what was measured at a few sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Attention, FeedForward, Mamba2
from minipuzzle.scores import Scores

AXES = {"mlp": "intermediate", "mamba": "heads", "attention": "kv_heads"}


def size_damage(parent: Architecture, scores: Scores, index: int, size: int) -> float:
    """Predicted damage of block ``index`` at ``size`` of its axis: 0 when whole, its block score
    when gone.

    Where scores hold a curve (the error measured at some sizes) it is read off between them by a
    monotone cubic; otherwise the block score is shared out by the squared channel scores that are
    cut off.
    """
    block = parent.blocks[index]
    axis = AXES[block.kind]
    full = block.sizes[axis]
    if size == full:
        return 0.0
    gone = float(scores.blocks[index])
    if axis in scores.curves.get(index, {}):
        from scipy.interpolate import PchipInterpolator

        sizes, errors = scores.curves[index][axis]
        x = np.concatenate([[0.0], sizes, [full]])
        y = np.concatenate([[gone], errors, [0.0]])
        return max(0.0, float(PchipInterpolator(x, y)(size)))
    return gone * float(lost_curve(parent, scores, index)[size])


def hidden_damage(scores: Scores, size: int) -> float:
    """Predicted damage of keeping the ``size`` best hidden channels in the whole model, 0 for all
    of them.

    All blocks' damage, shared out by the squared channel scores that are cut off: no score measures
    it (ours).
    """
    if scores.hidden is None or size == len(scores.hidden):
        return 0.0
    squares = np.sort(np.square(scores.hidden))[::-1]
    return float(scores.blocks.sum() * squares[size:].sum() / max(squares.sum(), 1e-300))


def drop_damage(scores: Scores) -> NDArray[np.float64]:
    """[n_blocks] float64: predicted damage of dropping each block: its score, or its share of its
    layer's.

    Two blocks that go together do not do the sum of what each does alone; where layers were
    measured the difference is shared out evenly.
    """
    if scores.layers is None:
        return scores.blocks
    alone = scores.blocks.reshape(len(scores.layers), -1)
    together = (scores.layers - alone.sum(1)) / alone.shape[1]
    shares: NDArray[np.float64] = (alone + together[:, None]).ravel()
    return shares


def lost_curve(parent: Architecture, scores: Scores, index: int) -> NDArray[np.float64]:
    """[size + 1] float64: the share of squared scores lost when a block keeps 0, 1, ... of its
    channels or heads.
    """
    block = parent.blocks[index]
    if isinstance(block, FeedForward):
        values = scores.widths["intermediate"][index][None]
    elif isinstance(block, Mamba2):
        values = np.sqrt(np.square(scores.widths["head_channels"][index]).sum(axis=1)).reshape(
            block.groups, -1
        )
    elif isinstance(block, Attention) and "q_heads" in scores.of(index):
        values = np.sqrt(
            np.square(scores.widths["q_heads"][index].reshape(block.kv_heads, -1)).sum(axis=1)
        )[None]
    else:
        return np.zeros(1)
    squares = np.square(-np.sort(-values, axis=1))
    whole = squares.sum()
    kept = np.concatenate([[0.0], np.cumsum(squares.sum(axis=0))])
    lost = 1 - kept / whole if whole > 0 else np.zeros(len(kept))
    lost[-1] = 0.0
    return np.repeat(lost, len(values))
