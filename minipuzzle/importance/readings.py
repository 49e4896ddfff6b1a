"""What is kept of an activation that passes: sums that add up over calibration batches, and the
score they end in.

X [b, s, c] is the activation, W [hidden, c] the matrix that reads it, N the number of tokens.

- ``MeanAbsolute``     s_c = sqrt(sum_b (mean_s |X_c|)^2): L2 over the batch, mean over the sequence
(arXiv:2407.14679)
- ``HeadNorm``         s_h = sqrt(sum_b (mean_s ||X_h||_2)^2), X_h the channels of head h (F_head,
arXiv:2407.14679)
- ``Fluctuation``      s_c = 1/(N-1) sum (X_c - mean X_c)^2 * ||W[:, c]||_2^2 (WIFV,
arXiv:2312.11983)
- ``Contribution``     s_c = mean |X_c| * ||W[:, c]||_2 (arXiv:2411.19146)
- ``HeadContribution`` s_h = mean ||W[:, h] X_h||_2, what a head adds to the stream (as NVIDIA's
  Model Optimizer scores the KV heads of Puzzle, ``IndependentKvHeadContributionHook``)

Results are float64 whatever the activation's dtype; sums of squares run in float64 because they are
subtracted.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


class Reading:
    """``sums`` [any shape] float64 are additive over batches, so they can be saved, and summed over
    processes.
    """

    sums: dict[str, Array]

    def reduce(self, x: Tensor) -> dict[str, Tensor]:
        """What an activation [b, s, c] adds to each of ``sums``: float64, on its device."""
        raise NotImplementedError

    def scores(self) -> Array:
        """[channels or heads] float64, higher is kept."""
        raise NotImplementedError

    def add(self, x: Tensor) -> None:
        """Count an activation [b, s, c]."""
        for name, value in self.reduce(x.detach()).items():
            self.sums[name] += value.cpu().numpy()


class MeanAbsolute(Reading):
    """Mean |x| over the sequence, L2 over the batch."""

    def __init__(self, channels: int) -> None:
        self.sums = {"squares": np.zeros(channels)}

    def reduce(self, x: Tensor) -> dict[str, Tensor]:
        return {"squares": x.float().abs().mean(dim=1).double().square().sum(dim=0)}

    def scores(self) -> Array:
        return np.sqrt(self.sums["squares"])


class HeadNorm(MeanAbsolute):
    """The L2 norm of each head's channels in place of |x|."""

    def reduce(self, x: Tensor) -> dict[str, Tensor]:
        heads = len(self.sums["squares"])
        return super().reduce(x.float().unflatten(-1, (heads, -1)).norm(dim=-1))


class Fluctuation(Reading):
    """Variance over all calibration tokens times the squared norm of the channel's output column,
    summed over a head.

    Their released code takes deviations from a running mean and leaves the first sample out; this
    is the formula itself.
    """

    def __init__(self, weight: Tensor, heads: int | None = None) -> None:
        self.weight, self.heads = weight, heads
        channels = weight.shape[1]
        self.sums = {
            "count": np.zeros(()),
            "total": np.zeros(channels),
            "squares": np.zeros(channels),
        }

    def reduce(self, x: Tensor) -> dict[str, Tensor]:
        total = x.new_zeros(x.shape[-1], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for row in x:  # float64 of one sample at a time
            wide = row.double()
            total += wide.sum(dim=0)
            squares += wide.square().sum(dim=0)
        return {"count": _count(x), "total": total, "squares": squares}

    def scores(self) -> Array:
        count, total = self.sums["count"], self.sums["total"]
        variance = np.maximum(self.sums["squares"] - total**2 / count, 0.0) / (count - 1)
        scores = variance * _column_norms(self.weight) ** 2
        return scores if self.heads is None else scores.reshape(self.heads, -1).sum(axis=1)


class Contribution(Reading):
    """Mean |x| over tokens times the norm of the channel's output column."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.sums = {"count": np.zeros(()), "absolutes": np.zeros(weight.shape[1])}

    def reduce(self, x: Tensor) -> dict[str, Tensor]:
        absolutes = x.float().abs().mean(dim=1).double().sum(dim=0) * x.shape[1]
        return {"count": _count(x), "absolutes": absolutes}

    def scores(self) -> Array:
        return self.sums["absolutes"] / self.sums["count"] * _column_norms(self.weight)


class HeadContribution(Reading):
    """Mean norm over tokens of what a head adds to the stream, by the Gram matrix of its
    columns.
    """

    def __init__(self, weight: Tensor, heads: int) -> None:
        self.weight = weight
        self.sums = {"count": np.zeros(()), "norms": np.zeros(heads)}

    def reduce(self, x: Tensor) -> dict[str, Tensor]:
        heads = len(self.sums["norms"])
        columns = self.weight.detach().float().unflatten(1, (heads, -1))
        gram = torch.einsum("ohc,ohd->hcd", columns, columns)
        split = x.float().unflatten(-1, (heads, -1))
        squares = (torch.einsum("bshc,hcd->bshd", split, gram) * split).sum(dim=-1)
        return {
            "count": _count(x),
            "norms": squares.clamp(min=0).sqrt().mean(dim=1).double().sum(dim=0) * x.shape[1],
        }

    def scores(self) -> Array:
        return self.sums["norms"] / self.sums["count"]


def _count(x: Tensor) -> Tensor:
    return torch.tensor(float(x.shape[0] * x.shape[1]), dtype=torch.float64)


def _column_norms(weight: Tensor) -> Array:
    return (
        torch.linalg.vector_norm(weight.detach(), dim=0, dtype=torch.float32).double().cpu().numpy()
    )
