"""The head's product with an FP32 result."""

from __future__ import annotations

import torch
from torch import Tensor


def matmul_fp32(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with an FP32 result, never rounded to BF16 on the way. [n, k] x [k, m] -> [n, m] float32."""
    if a.is_cuda and a.dtype == torch.bfloat16:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()
