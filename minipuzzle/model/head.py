"""The head's product with an FP32 result."""

from __future__ import annotations

import torch
from torch import Tensor

from minipuzzle.kernels.pointwise import compiled, product_dtype

__all__ = ["add_matmul_fp32", "compiled", "matmul_fp32", "product_dtype"]


def matmul_fp32(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with an FP32 result, never rounded to BF16 on the way. [n, k] x [k, m] -> [n, m]
    float32.

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
def add_matmul_fp32(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b for an FP32 ``total``, the product never rounded and on CUDA never stored on
    its own.
    """
    if a.is_cuda and a.dtype == torch.bfloat16:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())
