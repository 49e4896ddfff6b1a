"""Uniform noise: a baseline without information."""

from __future__ import annotations

import numpy as np

from minipuzzle.importance.experts.base import ExpertEstimator

EXPERT_ESTIMATOR = ExpertEstimator(
    source="none", drawn=lambda count, seed: np.random.default_rng((seed, 1)).random(count)
)
