"""The generalised Jensen-Shannon divergence JSD(beta) = beta KL(teacher || m) + (1 - beta)
KL(student || m), where m = beta teacher + (1 - beta) student: near forward KL for a small beta,
near reverse KL for a large one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minipuzzle.training.divergences.base import TINY, Divergence


def generalised(beta: float) -> Divergence:
    """JSD(``beta``), the teacher's share of the mixture and of the sum."""

    def mixture(s: Tensor, t: Tensor) -> Tensor:
        return (beta * t.exp() + (1 - beta) * s.exp()).clamp(min=TINY).log()

    def sums(s: Tensor, t: Tensor, floor: Tensor) -> Tensor:
        m = mixture(s, t)
        return torch.stack(((t.exp() * (t - m)).sum(-1), (s.exp() * (s - m)).sum(-1)))

    def value(found: Tensor) -> Tensor:
        return beta * found[0] + (1 - beta) * found[1]

    def gradient(s: Tensor, t: Tensor, floor: Tensor, found: Tensor) -> Tensor:
        return (1 - beta) * s.exp() * (s - mixture(s, t) - found[1][:, None])

    return Divergence(source="arXiv:2306.13649, eq. 1", gradient=gradient, sums=sums, value=value)
