"""Divergences between the teacher's and the student's next-token distribution, a tile of words at a
time.

s and t [n, v] are log probabilities of student and teacher; ``floor`` [n, 1] is the log probability
of the teacher's TOP_K-th word. Each divergence is sums over the whole vocabulary, and a gradient
that is pointwise once those are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TOP_K = 1024
"""Words whose probabilities are compared one by one (NVIDIA Model Optimizer's default); the rest is
one bucket.
"""
JSD_BETA = 0.5
TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """``gradient(s, t, floor, sums)`` [n, v] is d value / d student logits, ``sums(s, t, floor)``
    [k, n] a tile's share of the sums, ``value(sums)`` [n] nats. Without ``sums`` it is forward KL,
    which the softmax statistics already give.
    """

    source: str
    gradient: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    sums: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    value: Callable[[Tensor], Tensor] = lambda sums: sums[0]
    needs_floor: bool = False


def _forward_gradient(s: Tensor, t: Tensor, floor: Tensor, sums: Tensor) -> Tensor:
    return s.exp() - t.exp()


def _reverse_sums(s: Tensor, t: Tensor, floor: Tensor) -> Tensor:
    return (s.exp() * (s - t)).sum(-1)[None]


def _reverse_gradient(s: Tensor, t: Tensor, floor: Tensor, sums: Tensor) -> Tensor:
    return s.exp() * (s - t - sums[0][:, None])


def _mixture(s: Tensor, t: Tensor) -> Tensor:
    return (JSD_BETA * t.exp() + (1 - JSD_BETA) * s.exp()).clamp(min=TINY).log()


def _jsd_sums(s: Tensor, t: Tensor, floor: Tensor) -> Tensor:
    m = _mixture(s, t)
    return torch.stack(((t.exp() * (t - m)).sum(-1), (s.exp() * (s - m)).sum(-1)))


def _jsd_gradient(s: Tensor, t: Tensor, floor: Tensor, sums: Tensor) -> Tensor:
    return (1 - JSD_BETA) * s.exp() * (s - _mixture(s, t) - sums[1][:, None])


def _top_sums(s: Tensor, t: Tensor, floor: Tensor) -> Tensor:
    inside = t >= floor
    p, q = (x.exp() * inside for x in (t, s))
    return torch.stack(((p * (t - s)).sum(-1), p.sum(-1), q.sum(-1)))


def _top_value(sums: Tensor) -> Tensor:
    rest_p, rest_q = (1 - sums[1:]).clamp(min=TINY)
    return sums[0] + rest_p * (rest_p / rest_q).log()


def _top_gradient(s: Tensor, t: Tensor, floor: Tensor, sums: Tensor) -> Tensor:
    rest_p, rest_q = (1 - sums[1:]).clamp(min=TINY)
    q = s.exp()
    return q - torch.where(t >= floor, t.exp(), q * (rest_p / rest_q)[:, None])


DIVERGENCES = {
    "forward-kl": Divergence(
        source="arXiv:2504.03624, arXiv:2407.14679", gradient=_forward_gradient
    ),
    "reverse-kl": Divergence(
        source="arXiv:2306.08543", gradient=_reverse_gradient, sums=_reverse_sums
    ),
    "jsd": Divergence(
        source="arXiv:2306.13649, eq. 3",
        gradient=_jsd_gradient,
        sums=_jsd_sums,
        value=lambda sums: JSD_BETA * sums[0] + (1 - JSD_BETA) * sums[1],
    ),
    "top-k": Divergence(
        source="arXiv:2503.16870 (the rest as one bucket)",
        gradient=_top_gradient,
        sums=_top_sums,
        value=_top_value,
        needs_floor=True,
    ),
}
