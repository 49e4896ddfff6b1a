"""Linear layers in FP8 with per-tensor current scaling: E4M3 inputs and weights, E5M2 gradients, FP32 sums.

``EmulatedLinear`` makes the same casts in PyTorch, on any device; ``engine_linear`` is transformer-engine's. Both keep
the weight, its name and its dtype, so that checkpoints and optimiser states are those of BF16.
Source: arXiv:2504.03624 (the recipe), arXiv:2209.05433 (the formats), transformer-engine 2.20 (the scale's formula).
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16
"""Of both sizes of a weight, for Hopper's FP8 products."""


def quantize(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(codes, scale), x ~ codes / scale: the largest magnitude of ``x`` becomes the format's largest number.

    Clamped by hand: ``.to(float8_e5m2)`` gives infinity above 57344.
    """
    largest = torch.finfo(dtype).max
    amax = x.abs().amax().float()
    scale = torch.full_like(amax, largest) / amax  # "number / tensor" would multiply by a rounded reciprocal
    scale = torch.where(torch.isinf(scale), torch.full_like(scale, torch.finfo(x.dtype).max), scale)
    scale = torch.where(amax == 0, torch.ones_like(scale), scale)
    return (x.float() * scale).clamp(-largest, largest).to(dtype), scale


class _EmulatedProduct(torch.autograd.Function):
    """y = x w^T with all three products of forward and backward on FP8 codes, summed in FP32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        (qx, sx), (qw, sw) = quantize(x.reshape(-1, x.shape[-1]), E4M3), quantize(weight, E4M3)
        ctx.save_for_backward(qx, sx, qw, sw)
        ctx.shape, ctx.dtypes = x.shape, (x.dtype, weight.dtype)
        y = _product(qx, sx, qw.t(), sw)
        return y.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        qx, sx, qw, sw = ctx.saved_tensors
        qg, sg = quantize(grads[0].reshape(-1, grads[0].shape[-1]), E5M2)
        dx = _product(qg, sg, qw, sw).to(ctx.dtypes[0]).reshape(ctx.shape) if ctx.needs_input_grad[0] else None
        dw = _product(qg.t(), sg, qx, sx).to(ctx.dtypes[1]) if ctx.needs_input_grad[1] else None
        return dx, dw


def _product(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):
        return (a.float() / a_scale) @ (b.float() / b_scale)


class EmulatedLinear(nn.Linear):
    """A linear layer whose products are FP8's, in plain PyTorch; made by ``emulated_linear``."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        y: Tensor = _EmulatedProduct.apply(x, self.weight)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def emulated_linear(linear: nn.Module) -> nn.Module:
    """The same layer, parameters shared, in emulated FP8."""
    return _share(linear, EmulatedLinear(*_sizes(linear), bias=linear.bias is not None, device="meta"))


def plain_linear(linear: nn.Module) -> nn.Module:
    """The same layer, parameters shared, without FP8."""
    has_bias = isinstance(linear.bias, nn.Parameter)  # transformer-engine has an empty tensor instead of None
    return _share(linear, nn.Linear(*_sizes(linear), bias=has_bias, device="meta"))


def engine_linear(linear: nn.Module) -> nn.Module:
    """The same layer, parameters shared, in transformer-engine's FP8. Weights that need no gradient are cast once."""
    return _share(linear, _engine_class()(*_sizes(linear), bias=linear.bias is not None, device="meta"))


@cache
def _engine_class() -> Any:
    os.environ.setdefault("NVTE_FRAMEWORK", "pytorch")  # else it warns that its JAX part is missing
    import transformer_engine.pytorch as te
    from transformer_engine.common.recipe import Float8CurrentScaling, Format

    recipe = Float8CurrentScaling(fp8_format=Format.HYBRID)  # its default recipe keeps a history of maxima

    class EngineLinear(te.Linear):
        cast = False  # whether a frozen weight's FP8 copy has been made

        def forward(self, x: Tensor) -> Tensor:
            first = None if self.weight.requires_grad else not self.cast
            self.cast = first is not None
            with te.autocast(enabled=True, recipe=recipe):
                y: Tensor = super().forward(x, is_first_microbatch=first)
            return y

    return EngineLinear


def _sizes(linear: nn.Module) -> tuple[int, int]:
    return linear.in_features, linear.out_features  # type: ignore[return-value]


def _share(linear: nn.Module, made: nn.Module) -> nn.Module:
    for name, parameter in linear.named_parameters():
        setattr(made, name, parameter)
    return made.train(linear.training)
