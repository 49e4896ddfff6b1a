"""Increase of the next-token loss, nats a token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minipuzzle.importance.metrics.base import NO_TARGET, Metric


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    each = F.cross_entropy(logits, targets, ignore_index=NO_TARGET, reduction="none")
    return each.sum(dtype=torch.float64)


def _increase(known: Tensor, changed: Tensor, targets: Tensor) -> Tensor:
    return _loss(changed, targets) - known


def _predicted(whole: Tensor, targets: Tensor) -> float:
    return (targets != NO_TARGET).sum().item()


METRIC = Metric(
    source="ours",
    unit="nats a token",
    logits=True,
    prepare=_loss,
    distance=_increase,
    scale=_predicted,
)
