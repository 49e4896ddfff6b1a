"""Size of the weights that read a channel, times the channel's root mean square (Wanda).

Wanda scores a weight by |W_ij| * ||X_j||_2 (arXiv:2306.11695), W the output projection and X [N
tokens, c] what it reads. A channel is worth the mean over its column, s_c = mean_i |W_ic| *
sqrt(sum X_c^2 / N), a head the sum over its channels: "Wanda-sp" of FLAP's released code
(arXiv:2312.11983).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from minipuzzle.importance.estimators.base import Activations
from minipuzzle.importance.readings import Array, Reading, tokens_of
from minipuzzle.shapes import Float, Float64


class WeightTimesNorm(Reading):
    """The formula of this file: ``weight`` [hidden, c], ``count`` scores of c / count channels."""

    def __init__(self, weight: Tensor, count: int) -> None:
        self.weight, self.count = weight, count
        self.sums = {"count": np.zeros(()), "squares": np.zeros(weight.shape[1])}

    def reduce(self, x: Float[Tensor, "b s c"]) -> dict[str, Float64[Tensor, ...]]:
        squares = x.float().square().sum(dim=1).double().sum(dim=0)  # [c]
        return {"count": tokens_of(x), "squares": squares}

    def scores(self) -> Array:
        size = self.weight.detach().float().abs().mean(dim=0).double().cpu().numpy()  # [c]
        scores = size * np.sqrt(self.sums["squares"] / self.sums["count"])
        return scores.reshape(self.count, -1).sum(axis=1)


ESTIMATOR = Activations(source="arXiv:2306.11695, arXiv:2312.11983", reading=WeightTimesNorm)
