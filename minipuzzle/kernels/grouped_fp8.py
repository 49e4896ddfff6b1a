"""Experts' products in FP8: rows and matrices in E4M3 with a scale for each row and for each output
of a matrix, sums in FP32; the gradients of the matrices in BF16.

This is torchao's recipe "rowwise with gradients of weights in high precision": PyTorch's grouped
FP8 product takes E4M3 only, and for gradients of weights it would want every expert's rows padded
to a multiple of 16. ``emulated`` makes the same casts on any device.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from minipuzzle.kernels import grouped
from minipuzzle.kernels.choose import Kernels
from minipuzzle.kernels.experts import Call, Order, looped
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
    return _emulated_product(rows, *_stack_codes(stack, back), order)


def scaled(rows: Tensor, stack: Tensor, order: Order, back: bool) -> Tensor:
    """A ``grouped.Multiply`` by PyTorch's grouped FP8 product: on Hopper, in BF16."""
    codes, scale = compiled(_stack_codes)(stack, back)
    # as transformer-engine: gradients in FP32's full sums
    return _product(rows, codes, scale, order, fast=not back)


def run_stored(call: Call, *, scales: tuple[Tensor, Tensor]) -> Tensor:
    """As ``experts.run_experts`` without gradients, on ``stored_stack``'s codes."""

    def multiply(rows: Tensor, stack: Tensor, order: Order, back: bool) -> Tensor:
        scale = scales[0] if stack is call.up else scales[1]
        if rows.is_cuda:
            return _product(rows, stack, scale, order, fast=True)
        return _emulated_product(rows, stack, scale, order)

    form = grouped.Form.of(call, multiply)
    return grouped.forward(call.x, call.up, call.down, call.weights, form, call.watch)


@torch.no_grad()
def stored_stack(stack: Tensor) -> tuple[Tensor, Tensor]:
    """E4M3 codes of [E, out, in] and their scales [E, out, 1], made expert by expert."""
    codes = torch.empty_like(stack, dtype=E4M3)
    scale = torch.empty(*stack.shape[:2], 1, device=stack.device)
    for number, matrix in enumerate(stack):
        codes[number], scale[number] = quantize(matrix, E4M3, (1,))
    return codes, scale


def _emulated_product(rows: Tensor, codes: Tensor, scale: Tensor, order: Order) -> Tensor:
    """rows [rows, in] by codes / scale [E, out, in], all of them as E4M3 holds them."""
    own, of_rows = _row_codes(rows)
    with torch.autocast("cuda", enabled=False) if rows.is_cuda else nullcontext():
        return looped(own.float() / of_rows, codes.float() / scale, order).to(rows.dtype)


def _product(rows: Tensor, codes: Tensor, scale: Tensor, order: Order, *, fast: bool) -> Tensor:
    """As ``_emulated_product`` by PyTorch's kernel; ``fast``: sums that Hopper shortens."""
    own, of_rows = compiled(_row_codes)(rows)
    return torch._scaled_grouped_mm(
        own,
        codes.transpose(-2, -1),
        (1 / of_rows).flatten(),  # [rows]
        1 / scale[:, :, 0],  # [E, out]
        offs=order.offsets[1:],
        out_dtype=torch.bfloat16,  # it makes no other
        use_fast_accum=fast,
    ).to(rows.dtype)


def _row_codes(rows: Tensor) -> tuple[Tensor, Tensor]:
    return quantize(rows, E4M3, (1,))


def _stack_codes(stack: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    """Codes of [E, out, in] and scales [E, out, 1]; going back of [E, in, out], scales [E, in, 1].

    One scale an expert would leave a GPU's reduction to as many of its blocks as there are experts.
    """
    codes, scale = quantize(stack.transpose(1, 2) if back else stack, E4M3, (2,))
    return codes.contiguous(), scale
