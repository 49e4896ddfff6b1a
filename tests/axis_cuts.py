"""Selections that cut one axis: for the tests of slices in stock transformers."""

import numpy as np

from minipuzzle.arch import Selection


def kept_of(architecture, axis, size):
    """Random indices of one axis in each block that has it; another choice in each block."""
    rng = np.random.default_rng(3)
    chosen = []
    for block in architecture.blocks:
        of = [width for width in block.own_widths if width.axis == axis]
        values = [rng.random(width.score_shape(block)) for width in of]
        pairs = zip(of, values, strict=True)
        chosen.append({k: v for w, x in pairs for k, v in w.keep(block, x, size).items()})
    return Selection(blocks=tuple(chosen))
