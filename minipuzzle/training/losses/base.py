"""What a loss besides a divergence is: a file of this folder that holds ``LOSS``, one of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A term of a distillation's loss, summed over tokens. ``source`` is the paper or code."""

    source: str


@dataclass(frozen=True, kw_only=True)
class StateLoss(Loss):
    """``value(student, teacher)`` of the hidden states before the heads [n, d] and [n, d_teacher]:
    a sum over the tokens, float64, which is 0 where both are the same.
    """

    value: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class TargetLoss(Loss):
    """The cross-entropy of the next tokens, which is computed from the same logits as the
    divergence (``head_loss.linear_loss``); the last position of a block has none.
    """
