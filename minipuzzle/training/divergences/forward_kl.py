"""KL(teacher || student): covers all that the teacher may say (the default)."""

from __future__ import annotations

from torch import Tensor

from minipuzzle.training.divergences.base import Divergence


def _gradient(s: Tensor, t: Tensor, floor: Tensor, sums: Tensor) -> Tensor:
    return s.exp() - t.exp()


DIVERGENCE = Divergence(source="arXiv:2504.03624, arXiv:2407.14679", gradient=_gradient)
