"""What decoding remembers: keys and values of attention blocks, convolution window and state of Mamba-2 blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from minipuzzle.arch import Architecture, Attention, Mamba2


@dataclass(kw_only=True)
class AttentionSlot:
    """Keys and values so far: [b, max_length, kv_heads, head_dim]."""

    keys: Tensor
    values: Tensor


@dataclass(kw_only=True)
class MambaSlot:
    """``window`` [b, conv_channels, kernel]: the last inputs of the convolution; ``state`` [b, heads, head_dim, n]."""

    window: Tensor
    state: Tensor


@dataclass(kw_only=True)
class Cache:
    """One slot a block (None for feed-forward) and the number of tokens seen."""

    slots: list[AttentionSlot | MambaSlot | None] = field(default_factory=list)
    length: int = 0


def new_cache(
    architecture: Architecture, batch: int, max_length: int, *, device: torch.device, kv_dtype: torch.dtype,
    state_dtype: torch.dtype = torch.float32,
) -> Cache:  # fmt: skip
    """An empty cache for ``batch`` sequences of up to ``max_length`` tokens."""
    cache = Cache()
    for block in architecture.blocks:
        if isinstance(block, Attention):
            shape = (batch, max_length, block.kv_heads, block.attn_head_dim)
            keys = torch.zeros(shape, device=device, dtype=kv_dtype)
            cache.slots.append(AttentionSlot(keys=keys, values=torch.zeros_like(keys)))
        elif isinstance(block, Mamba2):
            window = torch.zeros(batch, block.conv_channels, block.conv_kernel, device=device, dtype=kv_dtype)
            shape = (batch, block.heads, block.head_dim, block.state)
            cache.slots.append(MambaSlot(window=window, state=torch.zeros(shape, device=device, dtype=state_dtype)))
        else:
            cache.slots.append(None)
    return cache
