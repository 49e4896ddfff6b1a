"""RMSNorm in FP32, with a mask over hidden channels that counts only the kept ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minipuzzle.arch import Architecture
from minipuzzle.kernels.pointwise import rms_norm
from minipuzzle.shapes import Float


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight / divisor over the last axis, with 1 + weight where it is
    ``zero_centred``; result in x's dtype, or autocast's on CUDA.
    """

    kept: Tensor | None

    def __init__(
        self, size: int, eps: float, divisor: float = 1.0, *, zero_centred: bool = False
    ) -> None:
        super().__init__()
        self.neutral = 0.0 if zero_centred else 1.0  # the weight that changes nothing
        self.weight = nn.Parameter(torch.full((size,), self.neutral))
        self.eps = eps
        self.divisor = divisor
        self.kept = None

    def forward(self, x: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest d"]:
        weight = self.weight.float()
        if self.neutral != 1:
            weight = weight + (1 - self.neutral)
        if self.divisor != 1:
            weight = weight / self.divisor
        if self.kept is None:
            return rms_norm(x, weight, self.eps)
        # the mean over the kept channels only, as the norm of the cut model has it
        wide = x.float() * self.kept
        mean = wide.square().sum(-1, keepdim=True) / self.kept.sum()
        return (wide * torch.rsqrt(mean + self.eps) * weight).to(x.dtype)


def final_norm(architecture: Architecture) -> RMSNorm:
    """The norm before the head. It divides the logits too, so that whoever multiplies with the head
    gets them right.
    """
    return RMSNorm(
        architecture.hidden,
        architecture.norm_eps,
        architecture.logits_divisor,
        zero_centred=architecture.zero_centred,
    )
