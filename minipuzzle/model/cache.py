"""What decoding remembers: keys and values of attention blocks, convolution window and state of
Mamba-2 blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minipuzzle.arch import Architecture
from minipuzzle.kernels.attention import Rows
from minipuzzle.kinds import Attention, Block, Mamba2


@dataclass(kw_only=True)
class AttentionSlot:
    """Keys and values so far: [b, max_length, kv_heads, head_dim]. ``rows`` where each row has its
    own length.
    """

    keys: Tensor
    values: Tensor
    rows: Rows | None = None


@dataclass(kw_only=True)
class MambaSlot:
    """``window`` [b, conv_channels, kernel]: the last inputs of the convolution; ``state`` [b,
    heads, head_dim, n].
    """

    window: Tensor
    state: Tensor


def slot_parts(slot: AttentionSlot | MambaSlot | None) -> dict[str, list[Tensor]]:
    """The tensors of a slot, by the part of ``kinds.Cache`` that they hold."""
    if isinstance(slot, AttentionSlot):
        return {"kv": [slot.keys, slot.values]}
    return {} if slot is None else {"window": [slot.window], "state": [slot.state]}


def slot_tensors(slot: AttentionSlot | MambaSlot | None) -> list[Tensor]:
    """The tensors of a slot."""
    return [tensor for part in slot_parts(slot).values() for tensor in part]


@dataclass(kw_only=True)
class Cache:
    """One slot a block (None for feed-forward), room for ``capacity`` tokens a row, and the number
    of tokens seen.

    Any number of tokens may follow those seen, the same in every row; after ``decode_rows`` one a
    row.
    """

    slots: list[AttentionSlot | MambaSlot | None] = field(default_factory=list)
    capacity: int
    length: int = 0

    def part(self, start: int, stop: int) -> Cache:
        """Rows start..stop-1 as a cache of their own that shares this one's memory and has seen
        nothing.
        """
        slots: list[AttentionSlot | MambaSlot | None] = []
        for slot in self.slots:
            if isinstance(slot, AttentionSlot):
                slots.append(
                    AttentionSlot(keys=slot.keys[start:stop], values=slot.values[start:stop])
                )
            elif isinstance(slot, MambaSlot):
                slots.append(
                    MambaSlot(window=slot.window[start:stop], state=slot.state[start:stop])
                )
            else:
                slots.append(None)
        return Cache(slots=slots, capacity=self.capacity)

    def decode_rows(self, lengths: list[int], device: torch.device) -> Rows:
        """From now on one token a row at a time, row i after its own ``lengths[i]`` tokens. The
        caller advances the rows; ``length`` is then only a bound that no row is above.
        """
        rows = Rows.of(lengths, self.capacity, device)
        for slot in self.slots:
            if isinstance(slot, AttentionSlot):
                slot.rows = rows
        self.length = max(lengths)
        return rows


def new_cache(
    architecture: Architecture,
    batch: int,
    max_length: int,
    *,
    device: torch.device,
    kv_dtype: torch.dtype,
    state_dtype: torch.dtype = torch.float32,
) -> Cache:
    """An empty cache for ``batch`` sequences of up to ``max_length`` tokens."""
    kinds = {"device": device, "kv_dtype": kv_dtype, "state_dtype": state_dtype}
    return Cache(
        slots=[new_slot(block, batch, max_length, **kinds) for block in architecture.blocks],
        capacity=max_length,
    )


def new_slot(
    block: Block, batch: int, max_length: int, *, device: Any, kv_dtype: Any, state_dtype: Any
) -> AttentionSlot | MambaSlot | None:
    """What one block remembers, empty."""
    if isinstance(block, Attention):
        shape = (batch, max_length, block.kv_heads, block.attn_head_dim)
        keys = torch.zeros(shape, device=device, dtype=kv_dtype)
        return AttentionSlot(keys=keys, values=torch.zeros_like(keys))
    if isinstance(block, Mamba2):
        window = torch.zeros(
            batch, block.conv_channels, block.conv_kernel, device=device, dtype=kv_dtype
        )
        shape = (batch, block.heads, block.head_dim, block.state)
        return MambaSlot(window=window, state=torch.zeros(shape, device=device, dtype=state_dtype))
    return None
