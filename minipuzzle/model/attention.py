"""How attention runs: causal and grouped-query, without position embedding (arXiv:2504.03624) or
with a rotary one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minipuzzle.kernels import Kernels
from minipuzzle.kernels.attention import causal_attention, row_attention
from minipuzzle.kinds import Attention, Block
from minipuzzle.model.base import Context, ResidualBlock
from minipuzzle.model.cache import Room, Slot
from minipuzzle.model.norm import RMSNorm
from minipuzzle.model.rope import rotate
from minipuzzle.shapes import Float, Int


@dataclass(kw_only=True)
class AttentionSlot(Slot):
    """Keys and values so far: [b, capacity, kv_heads, head_dim]."""

    terms: ClassVar[dict[str, str]] = {"keys": "kv", "values": "kv"}

    keys: Tensor
    values: Tensor


class AttentionBlock(ResidualBlock):
    """o_proj(softmax(q k^T) v), each query head reading its group's KV head, times the sigmoid of a
    gate where there is one.
    """

    kind = Attention.kind
    block: Attention

    def __init__(self, block: Attention, eps: float, kernels: Kernels) -> None:
        super().__init__(block, eps, kernels)
        d, hd = block.hidden, block.attn_head_dim
        rows = block.q_heads * hd * (2 if block.output_gate else 1)
        self.q_proj = nn.Linear(d, rows, bias=block.bias)
        self.k_proj = nn.Linear(d, block.kv_heads * hd, bias=block.bias)
        self.v_proj = nn.Linear(d, block.kv_heads * hd, bias=block.bias)
        self.o_proj = nn.Linear(block.q_heads * hd, d, bias=block.out_bias)
        if block.qk_norm:
            whole = block.qk_norm_over == "all"
            self.q_norm, self.k_norm = (
                RMSNorm(heads * hd if whole else hd, eps, zero_centred=block.zero_centred)
                for heads in (block.q_heads, block.kv_heads)
            )

    @classmethod
    def new_slot(cls, block: Block, room: Room) -> AttentionSlot:
        """Keys and values."""
        sizes = block.sizes
        shape = (room.batch, room.capacity, sizes["kv_heads"], sizes["attn_head_dim"])
        keys = torch.zeros(shape, device=room.device, dtype=room.kv_dtype)
        return AttentionSlot(keys=keys, values=torch.zeros_like(keys))

    def mixer(self, x: Float[Tensor, "b s d"], context: Context) -> Float[Tensor, "b s d"]:
        """softmax(scale q k^T) v, over the cache where there is one."""
        batch, length, _ = x.shape
        hd, past = self.block.attn_head_dim, context.past
        slot = cast("AttentionSlot | None", context.slot)
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)  # each [b, s, heads * hd]
        gate = None
        if self.block.output_gate:  # a head's rows are its query's, then its gate's
            # [b, s, heads, 2 hd] -> each [b, s, heads * hd]
            q, gate = (t.flatten(2) for t in q.unflatten(2, (-1, 2 * hd)).chunk(2, -1))
        over = self.block.qk_norm_over if self.block.qk_norm else ""
        if over == "all":
            q, k = self.q_norm(q), self.k_norm(k)
        # q [b, s, q_heads, hd]; k, v [b, s, kv_heads, hd]
        q, k, v = (t.view(batch, length, -1, hd) for t in (q, k, v))
        if over == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        rows = None if slot is None else slot.rows
        if self.block.rope is not None:
            places = (  # [1 or b, s]: the same for all rows, or each row's own
                torch.arange(past, past + length, device=x.device)[None]
                if rows is None
                else rows.positions[:, None]
            )
            q, k = (rotate(t, self.block.rope, places, past + length) for t in (q, k))
        if slot is not None and rows is not None:
            # one token a row, each at its own place: s is 1
            slot.keys[rows.index, rows.positions] = k[:, 0].to(slot.keys.dtype)
            slot.values[rows.index, rows.positions] = v[:, 0].to(slot.values.dtype)
            y = row_attention(q, slot.keys, slot.values, rows, past + 1, self.block.scale)
        elif context.documents is not None:
            y = self._within_documents(q, k, v, context.documents)
        else:
            if slot is not None:
                slot.keys[:, past : past + length] = k
                slot.values[:, past : past + length] = v
                if past:  # else the new ones are all there are: they need not be rounded
                    k, v = (t[:, : past + length].to(q.dtype) for t in (slot.keys, slot.values))
            y = causal_attention(q, k, v, past, self.block.scale)
        y = y.reshape(batch, length, -1)  # [b, s, q_heads * hd]
        if gate is not None:
            y = y * torch.sigmoid(gate)
        if self.kept is not None:
            y = y * self.kept
        return self.o_proj(y)

    def _within_documents(
        self,
        q: Float[Tensor, "b s h p"],
        k: Float[Tensor, "b s kv p"],
        v: Float[Tensor, "b s kv p"],
        documents: Int[Tensor, "b s"],
    ) -> Float[Tensor, "b s h p"]:
        """Queries see the keys before them of their own document."""
        length = q.shape[1]
        same = documents[:, :, None] == documents[:, None, :]  # [b, s, s]
        causal = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
        mask = (same & causal)[:, None]  # [b, 1, s, s]: the same for all heads
        ratio = self.block.q_heads // self.block.kv_heads
        # CUDA's kernel for masks wants equal heads; without it all scores are held
        if q.is_cuda and ratio > 1:
            k, v = (t.repeat_interleave(ratio, 2) for t in (k, v))
        return F.scaled_dot_product_attention(
            q.transpose(1, 2),  # [b, heads, s, hd], as PyTorch has it
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            scale=self.block.scale,
            enable_gqa=q.shape[2] != k.shape[2],
        ).transpose(1, 2)
