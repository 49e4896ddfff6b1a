"""KL over the teacher's 1,024 most likely tokens, the rest as one bucket."""

from __future__ import annotations

import torch
from torch import Tensor

from minipuzzle.training.divergences.base import TINY, Divergence


def _sums(s: Tensor, t: Tensor, floor: Tensor) -> Tensor:
    inside = t >= floor
    p, q = (x.exp() * inside for x in (t, s))
    return torch.stack(((p * (t - s)).sum(-1), p.sum(-1), q.sum(-1)))


def _value(sums: Tensor) -> Tensor:
    rest_p, rest_q = (1 - sums[1:]).clamp(min=TINY)
    return sums[0] + rest_p * (rest_p / rest_q).log()


def _gradient(s: Tensor, t: Tensor, floor: Tensor, sums: Tensor) -> Tensor:
    rest_p, rest_q = (1 - sums[1:]).clamp(min=TINY)
    q = s.exp()
    return q - torch.where(t >= floor, t.exp(), q * (rest_p / rest_q)[:, None])


DIVERGENCE = Divergence(
    source="arXiv:2503.16870 (the rest as one bucket)",
    gradient=_gradient,
    sums=_sums,
    value=_value,
    needs_floor=True,
)
