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
    widths = [rng.random(score_count(block)) for block in parent.blocks]
    hidden = rng.random(parent.hidden)
    meta = {"estimator": "random", "seed": seed}
    return as_scores(parent, blocks=blocks, widths=widths, hidden=hidden, meta=meta)


def block_noise(block: Block, module: nn.Module, seed: int) -> Array:
    """[number of scores] uniform in [0, 1). Give each block its own seed, or blocks of one shape
    get the same.
    """
    return np.random.default_rng(seed).random(score_count(block))


ESTIMATOR = Weights(source="none", scores=block_noise)
