"""What narrowing one block is predicted to do, from what was measured at a few sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.arch.narrow import Sizes, values_of
from minipuzzle.kinds import Width
from minipuzzle.scores import Scores
from minipuzzle.settings.bits import AXIS, BOTH, READS, TENTHS, WHOLE, WRITES, name_of, parts


def block_damage(parent: Architecture, scores: Scores, index: int, sizes: Sizes) -> float:
    """Predicted damage of block ``index`` at ``sizes`` of its axes, bits among them: the sum over
    its widths, and what its format does to the whole block.

    Raises: UserError where the scores have none for an axis that is to shrink.
    """
    block = parent.blocks[index]
    return bits_damage(scores, index, sizes.get(AXIS, TENTHS[WHOLE])) + sum(
        size_damage(parent, scores, index, width, sizes[width.axis])
        for width in block.searched
        if width.axis in sizes
    )


def size_damage(parent: Architecture, scores: Scores, index: int, width: Width, size: int) -> float:
    """Predicted damage of block ``index`` at ``size`` of one axis: 0 when whole, its block score
    when gone.

    Where scores hold a curve (the loss increase at some sizes) it is read off between them by a
    monotone cubic; otherwise the block score is shared out by the squared channel scores that are
    cut off.
    """
    block = parent.blocks[index]
    whole = block.sizes[width.axis]
    if size == whole:
        return 0.0
    gone = float(scores.blocks[index])
    if width.axis in scores.curves.get(index, {}):
        from scipy.interpolate import PchipInterpolator

        sizes, errors = scores.curves[index][width.axis]
        x = np.concatenate([[0.0], sizes, [whole]])
        y = np.concatenate([[gone], errors, [0.0]])
        return max(0.0, float(PchipInterpolator(x, y)(size)))
    values_of(width, scores.of(index))
    return gone * float(scores.lost(index, block, width)[size])


def bits_damage(scores: Scores, index: int, bits: int) -> float:
    """What block ``index``, whole, was measured to do in the format of that number, alone: the sum
    over its two parts; 0 for one that stays as it is.
    """
    total = 0.0
    for name, part in zip(parts(name_of(bits)), (READS, WRITES), strict=True):
        if name != WHOLE:
            measured, errors = scores.curves[index][name]
            known = dict(zip(measured.tolist(), errors.tolist(), strict=True))
            # a block with experts was measured whole, and has one format: a half twice
            total += known[part] if part in known else known[BOTH] / 2
    return total


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
