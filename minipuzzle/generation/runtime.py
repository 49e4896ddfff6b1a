"""How a model runs: the dtypes and kernels, and the bytes that only running a block tells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from minipuzzle.generation.step import TOKENS_AT_ONCE
from minipuzzle.kinds import Block
from minipuzzle.model.base import new_slot
from minipuzzle.model.cache import Room
from minipuzzle.model.footprint import forward_bytes


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """``dtype`` of weights, activations, keys and values; ``state_dtype`` of SSM states; ``fast``
    with mamba-ssm's kernels; ``fp8_weights`` holds the matrices of blocks in one byte a value.
    """

    dtype: torch.dtype
    state_dtype: torch.dtype
    fast: bool
    fp8_weights: bool = False
    tokens_at_once: int = TOKENS_AT_ONCE

    @property
    def value_bytes(self) -> int:
        """Of a weight, an activation, a key and a value."""
        return self.dtype.itemsize

    def forward_bytes(self, block: Block, rows: int, length: int, past: int) -> int:
        """As ``memory.inference.Runtime``: measured on "meta" tensors (``model.footprint``)."""
        return _forward(block, rows, length, past, self.dtype, self.fast)

    def slot_bytes(self, block: Block) -> tuple[int, int]:
        """As ``memory.inference.Runtime``: of the tensors that decoding makes."""
        return _slot(block, self.dtype, self.state_dtype)


@lru_cache(maxsize=4096)
def _forward(
    block: Block, rows: int, length: int, past: int, dtype: torch.dtype, fast: bool
) -> int:
    return forward_bytes(block, batch=rows, length=length, dtype=dtype, fast=fast, past=past)


@lru_cache(maxsize=4096)
def _slot(block: Block, dtype: torch.dtype, state_dtype: torch.dtype) -> tuple[int, int]:
    device = torch.device("meta")
    room = Room(batch=1, capacity=1, device=device, kv_dtype=dtype, state_dtype=state_dtype)
    slot = new_slot(block, room)
    return (0, 0) if slot is None else (slot.nbytes("kv"), slot.nbytes("state", "window"))
