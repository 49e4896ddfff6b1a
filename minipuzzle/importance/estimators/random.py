"""Uniform noise: a baseline without information."""

from __future__ import annotations

import numpy as np
from torch import nn

from minipuzzle.arch import Architecture
from minipuzzle.importance.estimators.base import Weights
from minipuzzle.importance.readings import Array
from minipuzzle.importance.widths import as_scores, score_count
from minipuzzle.kinds import Block
from minipuzzle.scores import Scores


def random_scores(parent: Architecture, seed: int) -> Scores:
    """Scores without information: uniform in [0, 1), by seed."""
    rng = np.random.default_rng(seed)
    blocks = rng.random(len(parent.blocks))
    names = [list(block.score_shapes) for block in parent.blocks]
    widths = [
        {name: rng.random(score_count(block, name)) for name in own[:1]}
        for block, own in zip(parent.blocks, names, strict=True)
    ]
    hidden = rng.random(parent.hidden)
    for block, own, found in zip(parent.blocks, names, widths, strict=True):
        found |= {name: rng.random(score_count(block, name)) for name in own[1:]}
    meta = {"estimator": "random", "seed": seed}
    return as_scores(parent, blocks=blocks, widths=widths, hidden=hidden, meta=meta)


def block_noise(block: Block, module: nn.Module, name: str, seed: int) -> Array:
    """[number of scores] uniform in [0, 1). Give each block its own seed, or blocks of one shape
    get the same.
    """
    place = list(block.score_shapes).index(name)
    rng = np.random.default_rng((seed, place) if place else seed)
    return rng.random(score_count(block, name))


ESTIMATOR = Weights(source="none", scores=block_noise)
