"""Experts' products in FP8: rows and matrices in E4M3, a scale for each row and each expert's
matrix, sums in FP32; the gradients of the matrices in BF16.

This is torchao's recipe "rowwise with gradients of weights in high precision": PyTorch's grouped
FP8 product takes E4M3 only, and for gradients of weights it would want every expert's rows padded
to a multiple of 16. ``emulated`` makes the same casts on any device.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from minipuzzle.kernels import grouped
from minipuzzle.kernels.choose import Kernels
from minipuzzle.kernels.experts import Order, looped
from minipuzzle.kernels.fp8 import E4M3, quantize
from minipuzzle.kernels.pointwise import compiled


def experts_in_fp8(kernels: Kernels, precision: str) -> Kernels:
    """The kernels, with experts in "fp8" or "fp8-emulated"."""
    multiply = {"fp8": scaled, "fp8-emulated": emulated}[precision]
    run = partial(grouped.run_experts, multiply=multiply)
    return replace(kernels, run_experts=run, experts_wait=precision == "fp8-emulated")


def why_not(device: torch.device) -> str:
    """Why experts' products cannot run in FP8 on a device; "" where they can."""
    if device.type != "cuda":
        return "no CUDA device"
    # PyTorch compiles the kernel for Hopper and for the first Blackwell alone
    fits = torch.cuda.get_device_capability(device) in ((9, 0), (10, 0))
    return "" if fits else f"{torch.cuda.get_device_name(device)} has no grouped products in FP8"


def emulated(rows: Tensor, stack: Tensor, order: Order, back: bool) -> Tensor:
    """A ``grouped.Multiply`` in plain PyTorch. Waits for the device."""
    (codes, scale), (matrices, of_matrix) = _row_codes(rows), _stack_codes(stack, back)
    with torch.autocast(rows.device.type, enabled=False):
        exact = codes.float() / scale, matrices.float() / of_matrix
        return looped(*exact, order).to(rows.dtype)


def scaled(rows: Tensor, stack: Tensor, order: Order, back: bool) -> Tensor:
    """A ``grouped.Multiply`` by PyTorch's grouped FP8 product: on Hopper, in BF16."""
    # codes [rows, in], of the stack [E, out, in]; going back out and in are the other way round
    (codes, scale), (matrices, of_matrix) = (
        compiled(_row_codes)(rows),
        compiled(_stack_codes)(stack, back),
    )
    return torch._scaled_grouped_mm(
        codes,
        matrices.transpose(-2, -1),
        (1 / scale).flatten(),  # [rows]
        (1 / of_matrix[:, :, 0]).expand(-1, matrices.shape[1]).contiguous(),  # [E, out]
        offs=order.offsets[1:],
        out_dtype=rows.dtype,
        use_fast_accum=not back,  # as transformer-engine: gradients in FP32's full sums
    )


def _row_codes(rows: Tensor) -> tuple[Tensor, Tensor]:
    return quantize(rows, E4M3, (1,))


def _stack_codes(stack: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    """Codes of [E, out, in], going back of [E, in, out], and a scale for each expert [E, 1, 1]."""
    codes, scale = quantize(stack, E4M3, (1, 2))
    return codes.transpose(1, 2).contiguous() if back else codes, scale
