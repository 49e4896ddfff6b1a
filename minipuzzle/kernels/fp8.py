"""Linear layers in FP8 with per-tensor current scaling: E4M3 inputs and weights, E5M2 gradients,
FP32 sums.

``EmulatedLinear`` makes the same casts in PyTorch, on any device; ``EngineLinear`` is
transformer-engine's. A layer changes its class and stays the module it was: weights, names, dtypes
and hooks too, so that checkpoints, optimiser states, adapters and FSDP2, which hold on to modules,
see those of BF16. Source: arXiv:2504.03624 (the recipe), arXiv:2209.05433 (the formats),
transformer-engine 2.20 (the scale's formula).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# More precision for inputs and weights, more range for gradients.
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
# Of both sizes of a weight, for Hopper's FP8 products.
MULTIPLE = 16


def quantize(
    x: Tensor, dtype: torch.dtype, over: tuple[int, ...] = (), amax: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(codes, scale), x ~ codes / scale: the largest magnitude of ``x``, or of each part that the
    axes ``over`` span, becomes the format's largest number; ``amax`` where it is known.

    Clamped by hand: ``.to(float8_e5m2)`` gives infinity above 57344.
    """
    largest = torch.finfo(dtype).max
    amax = (x.abs().amax(over, keepdim=bool(over)) if amax is None else amax).float()
    # "number / tensor" would multiply by a rounded reciprocal
    scale = torch.full_like(amax, largest) / amax
    # an amax so small that the scale overflows, and 0, as transformer-engine has them
    scale = torch.where(torch.isinf(scale), torch.full_like(scale, torch.finfo(x.dtype).max), scale)
    scale = torch.where(amax == 0, torch.ones_like(scale), scale)
    return (x.float() * scale).clamp(-largest, largest).to(dtype), scale


class _EmulatedProduct(torch.autograd.Function):
    """y = x w^T with all three products of forward and backward on FP8 codes, summed in FP32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        # x [n, in], w [out, in]: one scale for each whole tensor
        (qx, sx), (qw, sw) = quantize(x.reshape(-1, x.shape[-1]), E4M3), quantize(weight, E4M3)
        ctx.save_for_backward(qx, sx, qw, sw)
        ctx.shape, ctx.dtypes = x.shape, (x.dtype, weight.dtype)
        y = _product(qx, sx, qw.t(), sw)
        return y.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        qx, sx, qw, sw = ctx.saved_tensors
        # g [n, out]: dx = g w [n, in], dw = g^T x [out, in]
        qg, sg = quantize(grads[0].reshape(-1, grads[0].shape[-1]), E5M2)
        dx = (
            _product(qg, sg, qw, sw).to(ctx.dtypes[0]).reshape(ctx.shape)
            if ctx.needs_input_grad[0]
            else None
        )
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


class EngineLinear(nn.Linear):
    """A linear layer whose products are transformer-engine's in FP8; made by ``engine_linear``.

    ``engine`` (a te.Linear, what switches FP8 on) is no submodule and borrows the parameters for
    each forward: FSDP2 puts the gathered ones into this module, and frees them afterwards.
    """

    engine: tuple[Any, Callable[[], AbstractContextManager[Any]]]
    sharded: bool
    cast: bool

    def forward(self, x: Tensor) -> Tensor:
        linear, fp8 = self.engine
        linear._parameters.update(self.named_parameters(recurse=False))
        first = None if self.weight.requires_grad or self.sharded else not self.cast
        self.cast = first is not None
        with fp8():
            y: Tensor = linear(x, is_first_microbatch=first)
        return y


def emulated_linear(linear: nn.Linear) -> nn.Linear:
    """Let a layer multiply in emulated FP8 from now on; the same layer."""
    plain_linear(linear).__class__ = EmulatedLinear
    return linear


def plain_linear(linear: nn.Linear) -> nn.Linear:
    """Let a layer multiply without FP8 again; the same layer."""
    for name in EngineLinear.__annotations__:
        vars(linear).pop(name, None)
    linear.__class__ = nn.Linear
    return linear


def engine_linear(linear: nn.Linear) -> nn.Linear:
    """Let a layer multiply in transformer-engine's FP8 from now on; the same layer.

    A frozen weight is cast once, but not one in shards: its FP8 copy would be whole on every GPU.
    Those are cast again for the backward pass too.
    """
    te, recipe = engine()
    made = te.Linear(
        linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta"
    )
    made.train(linear.training)
    plain_linear(linear).__class__ = EngineLinear
    assert isinstance(linear, EngineLinear)
    linear.sharded, linear.cast = hasattr(linear.weight, "to_local"), False
    made._is_fsdp2 = linear.sharded  # it would look for itself among FSDP's modules
    linear.engine = (made, partial(te.autocast, enabled=True, recipe=recipe))
    return linear


@cache
def engine() -> tuple[Any, Any]:
    """(transformer_engine.pytorch, the recipe of current scaling), imported beside PyTorch's own
    cuDNN.
    """
    os.environ.setdefault("NVTE_FRAMEWORK", "pytorch")  # else it warns that its JAX part is missing
    _load_cudnn()
    import transformer_engine.pytorch as te
    from transformer_engine.common.recipe import Float8CurrentScaling, Format

    # the default recipe keeps a history of maxima
    return te, Float8CurrentScaling(fp8_format=Format.HYBRID)


def _load_cudnn() -> None:
    """Load all of PyTorch's cuDNN: where the system has another one, transformer-engine would mix
    parts of both and fail.

    Where someone has imported it before us it has chosen, and PyTorch's cannot be loaded beside
    another one.
    """
    if "transformer_engine" in sys.modules:
        return
    try:
        package = find_spec("nvidia.cudnn")
    except ModuleNotFoundError:
        return  # PyTorch and transformer-engine both use the system's
    for folder in (package and package.submodule_search_locations) or ():
        for file in sorted(Path(folder, "lib").glob("libcudnn*.so*")):
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
