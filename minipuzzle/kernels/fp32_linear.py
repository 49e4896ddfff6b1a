"""A router's product: BF16 inputs, FP32 weights or BF16 ones, an FP32 result, on the matrix units.

A number of FP32 is the sum of three of BF16, whose products FP32 holds exactly: logits come out to
the last bits of FP32 (5e-7 off on an H200, an FP32 product 1e-7), in a fraction of the time. Near
ties decide which experts run, so they must.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minipuzzle.shapes import Float, Float32

EXACT, FINE = 3, 2
"""BF16 numbers that sum to one of FP32: 24 bits, or 16 for what is rounded to BF16 afterwards."""


def fp32_linear(x: Float[Tensor, "n d"], weight: Float[Tensor, "e d"]) -> Float32[Tensor, "n e"]:
    """x @ weight^T in FP32, whatever autocast says."""
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        if x.is_cuda and x.dtype == torch.bfloat16:
            result: Tensor = SplitLinear.apply(x, weight)
            return result
        return F.linear(x.float(), weight.float())


class SplitLinear(torch.autograd.Function):
    """Of BF16 inputs; gradients to 16 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        parts = split(weight, 1 if weight.dtype == torch.bfloat16 else EXACT)
        # [n, parts * E]: the small ones are added first
        products = _mm(x, torch.cat(parts[::-1]).t())
        return products.unflatten(1, (len(parts), -1)).sum(1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        high, low = split(grads[0], FINE)  # [n, E]
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            # (high + low) (w + rest) without low * rest, as one product over 3 E or 2 E columns
            w, *rest = split(weight, 1 if weight.dtype == torch.bfloat16 else FINE)
            left, right = [high, low, *[high] * len(rest)], [w, w, *rest]
            d_x = torch.mm(torch.cat(left, 1), torch.cat(right))
        if ctx.needs_input_grad[1]:
            both = _mm(torch.cat((high, low), 1).t(), x)  # [2 E, d]
            d_weight = both.unflatten(0, (FINE, -1)).sum(0).to(weight.dtype)
        return d_x, d_weight


def split(x: Tensor, parts: int) -> list[Tensor]:
    """BF16 tensors that sum to x, each with the next 8 bits of it."""
    rest, found = x.float(), []
    for _ in range(parts):
        found.append(rest.bfloat16())
        rest = rest - found[-1].float()
    return found


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of BF16 with an FP32 result."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
