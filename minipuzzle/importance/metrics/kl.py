"""KL(parent || variant) of the next-token distributions, nats a token."""

from __future__ import annotations

import torch
from torch import Tensor

from minipuzzle.importance.metrics.base import Metric


def _log_probabilities(whole: Tensor, targets: Tensor) -> Tensor:
    return whole.log_softmax(-1)


def _divergence(known: Tensor, changed: Tensor, targets: Tensor) -> Tensor:
    return (known.exp() * (known - changed.log_softmax(-1))).sum(dtype=torch.float64)


def _tokens(whole: Tensor, targets: Tensor) -> float:
    return len(whole)


METRIC = Metric(
    source="arXiv:2411.19146 (KL of the outputs)",
    unit="nats a token",
    logits=True,
    prepare=_log_probabilities,
    distance=_divergence,
    scale=_tokens,
)
