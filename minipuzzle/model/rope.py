"""Turning queries and keys by their positions."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from minipuzzle.kernels.pointwise import turn
from minipuzzle.kinds import Rope, rope_speeds
from minipuzzle.shapes import Float, Int


def rotate(
    x: Float[Tensor, "b s h p"], rope: Rope, positions: Int[Tensor, "#b s"], longest: int
) -> Float[Tensor, "b s h p"]:
    """x turned by its ``positions``, in FP32 and back to its
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
