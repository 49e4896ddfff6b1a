"""The mean of the trained weights after each of the last steps, as the result of a training.

Source: arXiv:1803.05407 (an average of weights along the end of a run lies lower than its last
point) and arXiv:2209.14981 (of its latest checkpoints alone); docs/decisions/average.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minipuzzle.model import HybridLM
from minipuzzle.training.trained import trainable


class Average:
    """The running mean of a model's trained weights over the steps of the last ``share`` of
    ``tokens``, of which there were ``count``; for a share of 0 it is empty and does nothing.
    ``tensors`` are what is saved of it, by name, FP32.
    """

    def __init__(self, model: HybridLM, share: float, tokens: int) -> None:
        self.first, self.count = (1 - share) * tokens, 0
        weights = {f"average.{name}": p.detach() for name, p in trainable(model) if share}
        self.tensors: dict[str, Tensor] = {
            n: torch.zeros_like(w, dtype=torch.float32) for n, w in weights.items()
        }
        self._pairs = [(weight, self.tensors[name]) for name, weight in weights.items()]

    @torch.no_grad()
    def add(self, tokens: int) -> None:
        """The weights as they are after a step, the last of whose tokens is ``tokens``."""
        if tokens <= self.first:
            return
        self.count += 1
        for weight, mean in self._pairs:
            mean.lerp_(weight.float(), 1 / self.count)

    @torch.no_grad()
    def take(self) -> None:
        """Make the mean the model's weights."""
        for weight, mean in self._pairs:
            weight.copy_(mean)
