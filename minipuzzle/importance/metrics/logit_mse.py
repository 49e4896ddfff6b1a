"""Squared difference of the logits, relative to the parent's: sum (M_full - M_j)^2 / sum M_full^2.

arXiv:2511.16664, over all tokens and vocabulary entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minipuzzle.importance.metrics.base import Metric, squared_difference


def _squares(whole: Tensor, targets: Tensor) -> float:
    return whole.square().sum(dtype=torch.float64).item()


METRIC = Metric(
    source="arXiv:2511.16664",
    unit="share of the squared logits",
    logits=True,
    distance=squared_difference,
    scale=_squares,
)
