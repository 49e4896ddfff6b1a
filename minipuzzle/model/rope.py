"""Turning queries and keys by their positions."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from minipuzzle.arch import Rope, rope_speeds


def rotate(x: Tensor, rope: Rope, past: int) -> Tensor:
    """x [b, s, heads, head_dim] turned, in FP32 and back to its dtype; the first token's position is ``past``.

    Channel k is paired with channel k + dim / 2, as in transformers' files.
    """
    length = past + x.shape[1]
    speeds = _speeds(rope, length if rope.kind == "dynamic" and length > rope.original else 0, x.device)
    angles = torch.arange(past, length, device=x.device, dtype=torch.float32)[:, None] * speeds
    cos, sin = angles.cos()[:, None] * rope.attention_factor, angles.sin()[:, None] * rope.attention_factor
    first, second, rest = x.float().split([rope.dim // 2, rope.dim // 2, x.shape[-1] - rope.dim], dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), -1).to(x.dtype)


@lru_cache(maxsize=64)
def _speeds(rope: Rope, length: int, device: torch.device) -> Tensor:
    """[dim / 2] FP32 on the device; kept, because a CUDA graph cannot copy from the CPU."""
    return torch.tensor(rope_speeds(rope, length).tolist(), dtype=torch.float32, device=device)
