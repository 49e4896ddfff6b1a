"""RMSNorm in FP32, with a mask over hidden channels that counts only the kept ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; result in x's dtype."""

    kept: Tensor | None

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self.kept = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            return nn.functional.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)
        wide = x.float() * self.kept
        mean = wide.square().sum(-1, keepdim=True) / self.kept.sum()
        return (wide * torch.rsqrt(mean + self.eps) * self.weight.float()).to(x.dtype)
