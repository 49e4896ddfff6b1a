"""A linear layer that holds nothing but the FP8 codes of its weight: for inference, in half of
BF16's memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minipuzzle.kernels.fp8 import E4M3, _product, quantize
from minipuzzle.kernels.pointwise import compiled


class StoredLinear(nn.Module):
    """The weight as E4M3 ``codes`` [out, in] and one ``scale`` (weight ~ codes / scale); inputs are
    cast to E4M3 with a scale of their own and products summed in FP32, by PyTorch's scaled product
    on CUDA and emulated elsewhere.

    The casts are those of training (``kernels.fp8``).
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        codes, scale = quantize(linear.weight.detach(), E4M3)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])  # [n, in]
        if x.is_cuda:
            # one maximum of all is what the compiler does worst: 0.6 ms of 155 MB on an H200, at
            # 0.27 TB/s (docs/results/distill_speed.md); autocast would make it FP32 first
            with torch.autocast("cuda", enabled=False):
                amax = torch.linalg.vector_norm(flat, float("inf"))
            codes, scale = compiled(_codes)(flat, amax)
            # y = (codes / scale) (weight / its scale)^T  [n, out], FP32 sums rounded to x's dtype
            y = torch._scaled_mm(
                codes,
                self.codes.t(),
                scale_a=1 / scale,
                scale_b=1 / self.scale,
                out_dtype=x.dtype,
                use_fast_accum=True,
            )
        else:
            codes, scale = quantize(flat, E4M3)
            y = _product(codes, scale, self.codes.t(), self.scale).to(x.dtype)
        y = y.unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias.to(y.dtype)


def _codes(x: Tensor, amax: Tensor) -> tuple[Tensor, Tensor]:
    return quantize(x, E4M3, amax=amax)
