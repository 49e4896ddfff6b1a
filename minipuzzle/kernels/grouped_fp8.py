"""Experts whose matrices are kept in FP8: rows and matrices in E4M3 with a scale for each row and
for each output of a matrix, sums in FP32. Without gradients: training leaves experts in BF16
(docs/decisions/fp8-and-experts.md).
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from minipuzzle.kernels import grouped
from minipuzzle.kernels.experts import Call, Order, looped
from minipuzzle.kernels.fp8 import E4M3, quantize
from minipuzzle.kernels.pointwise import compiled


def why_not(device: torch.device) -> str:
    """Why experts' products cannot run in FP8 on a device; "" where they can."""
    if device.type != "cuda":
        return "no CUDA device"
    # PyTorch compiles the kernel for Hopper and for the first Blackwell alone
    fits = torch.cuda.get_device_capability(device) in ((9, 0), (10, 0))
    return "" if fits else f"{torch.cuda.get_device_name(device)} has no grouped products in FP8"


def run_stored(call: Call, *, scales: tuple[Tensor, Tensor]) -> Tensor:
    """As ``experts.run_experts`` without gradients, on ``stored_stack``'s codes."""

    def multiply(rows: Tensor, stack: Tensor, order: Order, back: bool) -> Tensor:
        scale = scales[0] if stack is call.up else scales[1]
        if rows.is_cuda:
            return _product(rows, stack, scale, order)
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


def _product(rows: Tensor, codes: Tensor, scale: Tensor, order: Order) -> Tensor:
    """As ``_emulated_product`` by PyTorch's grouped FP8 product: on Hopper, in BF16."""
    own, of_rows = compiled(_row_codes)(rows)
    return torch._scaled_grouped_mm(
        own,
        codes.transpose(-2, -1),
        (1 / of_rows).flatten(),  # [rows]
        1 / scale[:, :, 0],  # [E, out]
        offs=order.offsets[1:],
        out_dtype=torch.bfloat16,  # it makes no other
        use_fast_accum=True,
    ).to(rows.dtype)


def _row_codes(rows: Tensor) -> tuple[Tensor, Tensor]:
    return quantize(rows, E4M3, (1,))
