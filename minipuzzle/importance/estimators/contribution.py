"""What a channel or head adds to the residual stream: mean |x| times its output column's norm.

Channels: s_c = mean |X_c| * ||W[:, c]||_2 (arXiv:2411.19146), X what the output projection W reads;
for Mamba this is ours. Heads of several channels: s_h = mean ||W[:, h] X_h||_2 (as NVIDIA's Model
Optimizer scores the KV heads of Puzzle, ``IndependentKvHeadContributionHook``).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from minipuzzle.importance.estimators.base import Activations
from minipuzzle.importance.readings import Array, Reading, column_norms, tokens_of
from minipuzzle.shapes import Float, Float64


class Contribution(Reading):
    """Mean |x| over tokens times the norm of the channel's output column."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.sums = {"count": np.zeros(()), "absolutes": np.zeros(weight.shape[1])}

    def reduce(self, x: Float[Tensor, "b s c"]) -> dict[str, Float64[Tensor, ...]]:
        absolutes = x.float().abs().mean(dim=1).double().sum(dim=0) * x.shape[1]
        return {"count": tokens_of(x), "absolutes": absolutes}

    def scores(self) -> Array:
        return self.sums["absolutes"] / self.sums["count"] * column_norms(self.weight)


class HeadContribution(Reading):
    """Mean norm over tokens of what a head adds to the stream, by the Gram matrix of its
    columns.
    """

    def __init__(self, weight: Tensor, heads: int) -> None:
        self.weight = weight
        self.sums = {"count": np.zeros(()), "norms": np.zeros(heads)}

    def reduce(self, x: Float[Tensor, "b s c"]) -> dict[str, Float64[Tensor, ...]]:
        heads = len(self.sums["norms"])
        # ||W_h x||^2 = x^T (W_h^T W_h) x: a small matrix a head instead of what it adds to each
        # hidden channel.
        columns = self.weight.detach().float().unflatten(1, (heads, -1))  # [hidden, heads, c]
        gram = torch.einsum("ohc,ohd->hcd", columns, columns)
        split = x.float().unflatten(-1, (heads, -1))  # [b, s, heads, c]
        squares = (torch.einsum("bshc,hcd->bshd", split, gram) * split).sum(dim=-1)
        return {
            "count": tokens_of(x),
            "norms": squares.clamp(min=0).sqrt().mean(dim=1).double().sum(dim=0) * x.shape[1],
        }

    def scores(self) -> Array:
        return self.sums["norms"] / self.sums["count"]


def contribution(weight: Tensor, count: int) -> Reading:
    """Of each channel where each has a score of its own, else of each head."""
    return Contribution(weight) if weight.shape[1] == count else HeadContribution(weight, count)


ESTIMATOR = Activations(source="arXiv:2411.19146", reading=contribution)
