"""RMS norm, one with a gate, squared ReLU, SwiGLU's product and RoPE's turn. On CUDA each is one
compiled kernel, so that nothing is moved or kept in FP32 on the way.

Eagerly, autocast would turn the square into FP32 and the norm would keep an FP32 copy of its input
for backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TypeVar

import torch
from torch import Tensor

from minipuzzle.shapes import Float

T = TypeVar("T")
# Sizes, dtypes and gradient modes that a function is compiled for; PyTorch's limit of 8 is below a
# pruned model's.
COMPILED_VARIANTS = 64

_replayed = False


@contextmanager
def replayed() -> Iterator[None]:
    """Meanwhile a token's kernels are for a CUDA graph: calling compiled ones costs nothing when it
    is replayed.
    """
    global _replayed
    _replayed = True
    try:
        yield
    finally:
        _replayed = False


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which products with ``x`` are made: autocast's on CUDA, else its own."""
    return (
        torch.get_autocast_dtype("cuda")
        if x.is_cuda and torch.is_autocast_enabled("cuda")
        else x.dtype
    )


def rms_norm(
    x: Float[Tensor, "*rest d"], weight: Float[Tensor, " d"], eps: float
) -> Float[Tensor, "*rest d"]:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, inside in FP32; in x's dtype, or that
    of autocast on CUDA.
    """
    dtype = product_dtype(x)
    if compiles(x):
        with torch.autocast("cuda", enabled=False):
            return compiled(_rms_norm)(x, weight, eps, dtype)
    return torch.nn.functional.rms_norm(x.float(), x.shape[-1:], weight.float(), eps).to(dtype)


def gated_rms_norm(
    x: Float[Tensor, "b s h d"],
    weight: Float[Tensor, " d"],
    eps: float,
    z: Float[Tensor, "b s h d"],
) -> Float[Tensor, "b s h d"]:
    """``rms_norm`` of x, then times silu(z)."""
    if not compiles(x[:, :, 0]):
        return rms_norm(x, weight, eps) * torch.nn.functional.silu(z)
    dtype = product_dtype(x)
    with torch.autocast("cuda", enabled=False):
        return compiled(_gated_rms_norm)(x, weight, eps, z, dtype)


def relu_squared(x: Tensor) -> Tensor:
    """relu(x)^2 in x's dtype."""
    if not compiles(x):
        # the name is used again: the input's memory can go back before the square
        x = torch.relu(x)
        return x.square()
    with torch.autocast("cuda", enabled=False):
        return compiled(_relu_squared)(x)


def silu_product(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up in their dtype."""
    if torch.is_grad_enabled():
        return torch.nn.functional.silu(gate) * up
    if not compiles(gate):
        return torch.nn.functional.silu(gate).mul_(up)  # a third tensor, never a fourth
    return compiled(_silu_product)(gate, up)


def turn(
    x: Float[Tensor, "b s h p"], angles: Float[Tensor, "#b s pairs"], factor: float
) -> Float[Tensor, "b s h p"]:
    """x with its pairs (k, k + pairs) turned by ``angles``, times ``factor``; the rest as it is."""
    if not compiles(x[:, :, 0]) or torch.is_grad_enabled():
        return _turn(x, angles, factor)
    return compiled(_turn)(x, angles, factor)


@cache
def compiled(function: Callable[..., T]) -> Callable[..., T]:
    """The function compiled once; a graph break in it is an error, not a slow surprise."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = COMPILED_VARIANTS
    result: Callable[..., T] = torch.compile(function, fullgraph=True)
    return result


def compiles(x: Tensor) -> bool:
    """Whether a compiled kernel is the faster one for x [..., n, c]. A decoded token's are short:
    compiled ones cost more to call, unless a graph does it.
    """
    return x.is_cuda and x.ndim > 1 and (x.shape[-2] > 1 or _replayed)


def _rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(
        dtype
    )


def _gated_rms_norm(x: Tensor, weight: Tensor, eps: float, z: Tensor, dtype: torch.dtype) -> Tensor:
    wide, gate = x.float(), z.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()
    return (normed * torch.nn.functional.silu(gate)).to(dtype)


def _relu_squared(x: Tensor) -> Tensor:
    positive = torch.relu(x)
    return positive * positive


def _silu_product(gate: Tensor, up: Tensor) -> Tensor:
    return torch.nn.functional.silu(gate) * up


def _turn(x: Tensor, angles: Tensor, factor: float) -> Tensor:
    half = angles.shape[-1]
    cos, sin = angles.cos()[:, :, None] * factor, angles.sin()[:, :, None] * factor
    first, second, rest = x.float().split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), -1).to(x.dtype)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu2": relu_squared,
    "silu": torch.nn.functional.silu,
}
"""The f of feed-forward blocks and of experts, by its name."""


def gate_product(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """f(gate) * up."""
    return silu_product(gate, up) if activation == "silu" else ACTIVATIONS[activation](gate) * up


def channels_of(activation: str, gated: bool) -> Callable[[Float[Tensor, "*rest r"]], Tensor]:
    """The function of a projection: f(up), or f(gate) * up of its halves, [..., channels].

    A function, so that the projection has no name where it is made: f can let its memory go.
    """
    return partial(_of_halves, activation) if gated else ACTIVATIONS[activation]


def _of_halves(activation: str, projected: Tensor) -> Tensor:
    gate, up = projected.chunk(2, -1)
    return gate_product(gate, up, activation)
