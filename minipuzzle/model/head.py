"""The head's product with an FP32 result."""

from __future__ import annotations

import torch
from torch import Tensor

from minipuzzle.kernels.pointwise import compiled, product_dtype
from minipuzzle.shapes import Float, Float32

__all__ = ["add_matmul_fp32", "compiled", "matmul_fp32", "product_dtype"]


def matmul_fp32(a: Float[Tensor, "n r"], b: Float[Tensor, "r v"]) -> Float32[Tensor, "n v"]:
    """a @ b with an FP32 result, never rounded to BF16 on the way.

    Under autocast on CUDA the inputs are rounded to BF16, as those of every product there, and only
    they.
    """
    dtype = product_dtype(a)
    a, b = a.to(dtype), b.to(dtype) if a.is_cuda else b
    with torch.autocast(a.device.type, enabled=False):  # it would round the result as well
        has_gradient = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
        # PyTorch has no derivative of the product of BF16 with an FP32 result
        if a.is_cuda and a.dtype == torch.bfloat16 and not has_gradient:
            return torch.mm(a, b, out_dtype=torch.float32)
        return a.float() @ b.float()


@torch.no_grad()
def add_matmul_fp32(
    total: Float32[Tensor, "n v"], a: Float[Tensor, "n r"], b: Float[Tensor, "r v"]
) -> None:
    """total += a @ b for an FP32 ``total``, the product never rounded and on CUDA never stored on
    its own.
    """
    if a.is_cuda and a.dtype == torch.bfloat16:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())
