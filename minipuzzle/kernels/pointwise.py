"""RMS norm and squared ReLU. On CUDA each is one compiled kernel, so that nothing is moved or kept in FP32 on the way.

Eagerly, autocast would turn the square into FP32 and the norm would keep an FP32 copy of its input for backward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

COMPILED_VARIANTS = 64
"""Sizes, dtypes and gradient modes that a function is compiled for; PyTorch's limit of 8 is below a pruned model's."""


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which products with ``x`` are made: autocast's on CUDA, else its own."""
    return torch.get_autocast_dtype("cuda") if x.is_cuda and torch.is_autocast_enabled("cuda") else x.dtype


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, inside in FP32; in x's dtype, or that of autocast on CUDA."""
    dtype = product_dtype(x)
    if _compiles(x):
        with torch.autocast("cuda", enabled=False):
            return compiled(_rms_norm)(x, weight, eps, dtype)
    return torch.nn.functional.rms_norm(x.float(), x.shape[-1:], weight.float(), eps).to(dtype)


def relu_squared(x: Tensor) -> Tensor:
    """relu(x)^2 in x's dtype."""
    if not _compiles(x):
        x = torch.relu(x)  # the name is used again: the input's memory can go back before the square
        return x.square()
    with torch.autocast("cuda", enabled=False):
        return compiled(_relu_squared)(x)


@cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function compiled once; a graph break in it is an error, not a slow surprise."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = COMPILED_VARIANTS
    result: Callable[..., Tensor] = torch.compile(function, fullgraph=True)
    return result


def _compiles(x: Tensor) -> bool:
    return x.is_cuda and x.ndim > 1 and x.shape[-2] > 1  # a decoded token's kernels are short: compiled ones cost more to call


def _rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(dtype)


def _relu_squared(x: Tensor) -> Tensor:
    positive = torch.relu(x)
    return positive * positive
