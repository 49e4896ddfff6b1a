"""KL(student || teacher): keeps to what the teacher says most."""

from __future__ import annotations

from torch import Tensor

from minipuzzle.training.divergences.base import Divergence


def _sums(s: Tensor, t: Tensor, floor: Tensor) -> Tensor:
    return (s.exp() * (s - t)).sum(-1)[None]


def _gradient(s: Tensor, t: Tensor, floor: Tensor, sums: Tensor) -> Tensor:
    return s.exp() * (s - t - sums[0][:, None])


DIVERGENCE = Divergence(source="arXiv:2306.08543", gradient=_gradient, sums=_sums)
