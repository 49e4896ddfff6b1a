"""Turning queries and keys by their positions."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from minipuzzle.kernels.pointwise import turn
from minipuzzle.kinds import Rope, rope_speeds


def rotate(x: Tensor, rope: Rope, positions: Tensor, longest: int) -> Tensor:
    """x [b, s, heads, head_dim] turned by its ``positions`` [b or 1, s], in FP32 and back to its
    dtype.

    ``longest`` is the length of the sequence so far, which "dynamic" reads. Channel k is paired
    with channel k + dim / 2, as in transformers' files.
    """
    speeds = _speeds(
        rope, longest if rope.kind == "dynamic" and longest > rope.original else 0, x.device
    )
    return turn(x, positions[..., None] * speeds, rope.attention_factor)


@lru_cache(maxsize=64)
def _speeds(rope: Rope, length: int, device: torch.device) -> Tensor:
    """[dim / 2] FP32 on the device; kept, because a CUDA graph cannot copy from the CPU."""
    return torch.tensor(rope_speeds(rope, length).tolist(), dtype=torch.float32, device=device)
