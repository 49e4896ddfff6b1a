"""What is kept of an activation that passes: sums that add up over calibration batches, and the
scores they end in.

Results are float64 whatever the activation's dtype; sums of squares run in float64 because they are
subtracted. A reading that one estimator alone uses is in that estimator's file.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.shapes import Float, Float64

Array = NDArray[np.float64]


class Reading:
    """``sums`` [any shape] float64 are additive over batches, so they can be saved, and summed over
    processes.
    """

    sums: dict[str, Array]

    def reduce(self, x: Float[Tensor, "b s c"]) -> dict[str, Float64[Tensor, ...]]:
        """What an activation adds to each of ``sums``, on its device."""
        raise NotImplementedError

    def scores(self) -> Array:
        """[number of scores] float64, higher is kept."""
        raise NotImplementedError


class Nothing(Reading):
    """No activation is read: ``compute`` has the scores, from weights or a seed."""

    def __init__(self, compute: Callable[[], Array]) -> None:
        self.sums = {}
        self.compute = compute

    def scores(self) -> Array:
        return self.compute()


class MeanAbsolute(Reading):
    """s_c = sqrt(sum_b (mean_s |x_c|)^2): mean over the sequence, L2 over the batch
    (arXiv:2407.14679).
    """

    def __init__(self, channels: int) -> None:
        self.sums = {"squares": np.zeros(channels)}

    def reduce(self, x: Float[Tensor, "b s c"]) -> dict[str, Float64[Tensor, ...]]:
        return {"squares": x.float().abs().mean(dim=1).double().square().sum(dim=0)}

    def scores(self) -> Array:
        return np.sqrt(self.sums["squares"])


def tokens_of(x: Float[Tensor, "b s c"]) -> Float64[Tensor, ""]:
    """The number of tokens of an activation."""
    return torch.tensor(float(x.shape[0] * x.shape[1]), dtype=torch.float64)


def column_norms(weight: Float[Tensor, "d c"]) -> Array:
    """[c] float64: L2 norms of the columns of ``weight``."""
    norms = torch.linalg.vector_norm(weight.detach(), dim=0, dtype=torch.float32)
    return norms.double().cpu().numpy()
