"""Mean squared difference of the hidden states after the final norm, over tokens and channels.

arXiv:2411.19146 (replace-one-block), arXiv:2504.03624. It needs no head.
"""

from __future__ import annotations

from torch import Tensor

from minipuzzle.importance.metrics.base import Metric, squared_difference


def _values(whole: Tensor, targets: Tensor) -> float:
    return whole.numel()


METRIC = Metric(
    source="arXiv:2411.19146, arXiv:2504.03624",
    unit="squared hidden state",
    logits=False,
    distance=squared_difference,
    scale=_values,
)
