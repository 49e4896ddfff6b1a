"""The head's product with an FP32 result."""

from __future__ import annotations

import torch
from torch import Tensor


def matmul_fp32(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with an FP32 result, never rounded to BF16 on the way. [n, k] x [k, m] -> [n, m] float32.

    Under autocast on CUDA the inputs are rounded to BF16, as those of every product there, and only they.
    """
    cuda = a.is_cuda
    if cuda and torch.is_autocast_enabled("cuda"):
        a, b = (t.to(torch.get_autocast_dtype("cuda")) for t in (a, b))
    with torch.autocast(a.device.type, enabled=False):  # it would round the result as well
        has_gradient = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
        if cuda and a.dtype == torch.bfloat16 and not has_gradient:  # PyTorch has no derivative of this one
            return torch.mm(a, b, out_dtype=torch.float32)
        return a.float() @ b.float()
