"""Variance of each channel over tokens, times its output column's squared norm (FLAP).

s_c = 1/(N-1) sum (X_c - mean X_c)^2 * ||W[:, c]||_2^2, X [N tokens, c] what the output projection W
reads (WIFV, arXiv:2312.11983), summed over the channels of a head. Their released code takes
deviations from a running mean and leaves the first sample out; this is the formula itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from minipuzzle.importance.estimators.base import Activations
from minipuzzle.importance.readings import Array, Reading, column_norms, tokens_of
from minipuzzle.shapes import Float, Float64

ROWS = 1024


class Fluctuation(Reading):
    """The formula of this file: ``weight`` [hidden, c], ``count`` scores of c / count channels."""

    def __init__(self, weight: Tensor, count: int) -> None:
        self.weight, self.count = weight, count
        channels = weight.shape[1]
        self.sums = {
            "count": np.zeros(()),
            "total": np.zeros(channels),
            "squares": np.zeros(channels),
        }

    def reduce(self, x: Float[Tensor, "b s c"]) -> dict[str, Float64[Tensor, ...]]:
        total = x.new_zeros(x.shape[-1], dtype=torch.float64)
        squares = torch.zeros_like(total)
        # float64 of one sample at a time, or of as many tokens where each is one of its own
        for part in x.flatten(0, 1).split(x.shape[1] if x.shape[1] > 1 else ROWS):
            wide = part.double()
            total += wide.sum(dim=0)
            squares += wide.square().sum(dim=0)
        return {"count": tokens_of(x), "total": total, "squares": squares}

    def scores(self) -> Array:
        count, total = self.sums["count"], self.sums["total"]
        variance = np.maximum(self.sums["squares"] - total**2 / count, 0.0) / (count - 1)
        scores = variance * column_norms(self.weight) ** 2
        return scores.reshape(self.count, -1).sum(axis=1)


ESTIMATOR = Activations(source="arXiv:2312.11983", reading=Fluctuation)
