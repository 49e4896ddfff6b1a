"""Jensen-Shannon: the mean KL of both to their even mixture."""

from __future__ import annotations

import torch
from torch import Tensor

from minipuzzle.training.divergences.base import TINY, Divergence

BETA = 0.5
"""The teacher's share of the mixture and of the sum."""


def _mixture(s: Tensor, t: Tensor) -> Tensor:
    return (BETA * t.exp() + (1 - BETA) * s.exp()).clamp(min=TINY).log()


def _sums(s: Tensor, t: Tensor, floor: Tensor) -> Tensor:
    m = _mixture(s, t)
    return torch.stack(((t.exp() * (t - m)).sum(-1), (s.exp() * (s - m)).sum(-1)))


def _value(sums: Tensor) -> Tensor:
    return BETA * sums[0] + (1 - BETA) * sums[1]


def _gradient(s: Tensor, t: Tensor, floor: Tensor, sums: Tensor) -> Tensor:
    return (1 - BETA) * s.exp() * (s - _mixture(s, t) - sums[1][:, None])


DIVERGENCE = Divergence(
    source="arXiv:2306.13649, eq. 3", gradient=_gradient, sums=_sums, value=_value
)
