"""What a divergence is: a file of this folder that holds ``DIVERGENCE``, one of these.

It compares the teacher's and the student's next-token distribution, a tile of vocabulary entries at
a time. s and t [n, v] are log probabilities of student and teacher; ``floor`` [n, 1] is the log
probability of the teacher's TOP_K-th token. Each divergence is sums over the whole vocabulary, and
a gradient that is pointwise once those are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

TOP_K = 1024
"""Tokens whose probabilities "top-k" compares one by one (NVIDIA Model Optimizer's default); the
rest is one bucket.
"""
TINY = 1e-30


def first(sums: Tensor) -> Tensor:
    """[n]: the first of the sums [k, n]."""
    return sums[0]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """``gradient(s, t, floor, sums)`` [n, v] is d value / d student logits, ``sums(s, t, floor)``
    [k, n] a tile's share of the sums, ``value(sums)`` [n] nats. Without ``sums`` it is forward KL,
    which the softmax statistics already give.
    """

    source: str
    gradient: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    sums: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    value: Callable[[Tensor], Tensor] = first
    needs_floor: bool = False
