"""How attention runs: causal and grouped-query, without position embedding (arXiv:2504.03624) or
with a rotary one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minipuzzle.kernels import Kernels
from minipuzzle.kernels.attention import Rows, causal_attention, masked_attention, row_attention
from minipuzzle.kinds import Attention, Block
from minipuzzle.model.base import Context, ResidualBlock
from minipuzzle.model.cache import Room, Slot
from minipuzzle.model.norm import RMSNorm
from minipuzzle.model.rope import rotate
from minipuzzle.shapes import Float, Int

CACHED = ("keys", "values")
"""Points at which is watched what a cache holds."""


@dataclass(kw_only=True)
class AttentionSlot(Slot):
    """Keys and values so far: [b, capacity, kv_heads, head_dim]. Under a sliding window the last
    ones only, where that is shorter: a token is at its position modulo the capacity.
    """

    terms: ClassVar[dict[str, str]] = {"keys": "kv", "values": "kv"}

    keys: Tensor
    values: Tensor

    def join(
        self, k: Float[Tensor, "b s kv p"], v: Float[Tensor, "b s kv p"], past: int, seen: int
    ) -> tuple[Float[Tensor, "b t kv p"], Float[Tensor, "b t kv p"]]:
        """The last ``seen`` keys and values before the position ``past``, then the new ones k and
        v [b, s, kv_heads, head_dim], of which note is taken.
        """
        capacity, length = self.keys.shape[1], k.shape[1]
        stop = past + length
        if stop <= capacity:
            self.keys[:, past:stop], self.values[:, past:stop] = k, v
            if not past:  # the new ones are all there are: they need not be rounded
                return k, v
            return self.keys[:, past - seen : stop].to(k), self.values[:, past - seen : stop].to(v)
        if length == 1:  # what the token sees is the whole ring, in an order that changes nothing
            self.keys[:, past % capacity], self.values[:, past % capacity] = k[:, 0], v[:, 0]
            return self.keys.to(k), self.values.to(v)
        # places of the ring: of what is read, and of the last ones that are new
        old = torch.arange(past - seen, past, device=k.device) % capacity
        new = torch.arange(max(past, stop - capacity), stop, device=k.device) % capacity
        found = []
        for held, fresh in ((self.keys, k), (self.values, v)):
            found.append(torch.cat((held[:, old].to(fresh), fresh), 1))
            held[:, new] = fresh[:, -len(new) :].to(held.dtype)
        return found[0], found[1]


class AttentionBlock(ResidualBlock):
    """o_proj(softmax(q k^T) v), each query head reading its group's KV head, times the sigmoid of a
    gate where there is one.

    Activations are watched at points of its own too: "keys" and "values" [b, s, kv_heads,
    head_dim], as a cache holds them.
    """

    kind = Attention.kind
    block: Attention

    def __init__(self, block: Attention, eps: float, kernels: Kernels) -> None:
        super().__init__(block, eps, kernels)
        self.keys, self.values = nn.Identity(), nn.Identity()
        d, hd = block.hidden, block.attn_head_dim
        rows, kv = block.q_heads * hd * (2 if block.output_gate else 1), block.kv_heads * hd
        self.rows = (rows, kv, kv)  # of q, of k and of v
        if block.packed:
            self.qkv_proj = nn.Linear(d, sum(self.rows), bias=block.bias)
        else:
            self.q_proj = nn.Linear(d, rows, bias=block.bias)
            self.k_proj = nn.Linear(d, kv, bias=block.bias)
            self.v_proj = nn.Linear(d, kv, bias=block.bias)
        self.o_proj = nn.Linear(block.q_heads * hd, d, bias=block.out_bias)
        if block.qk_norm:
            whole = block.qk_norm_over == "all"
            self.q_norm, self.k_norm = (
                RMSNorm(heads * hd if whole else hd, eps, zero_centred=block.zero_centred)
                for heads in (block.q_heads, block.kv_heads)
            )

    @classmethod
    def new_slot(cls, block: Block, room: Room) -> AttentionSlot:
        """Keys and values, no more than a window of them."""
        own = cast(Attention, block)
        shape = (room.batch, own.seen(room.capacity), own.kv_heads, own.attn_head_dim)
        keys = torch.zeros(shape, device=room.device, dtype=room.kv_dtype)
        return AttentionSlot(keys=keys, values=torch.zeros_like(keys))

    def mixer(self, x: Float[Tensor, "b s d"], context: Context) -> Float[Tensor, "b s d"]:
        """softmax(scale q k^T) v, over the cache where there is one."""
        batch, length, _ = x.shape
        hd, past = self.block.attn_head_dim, context.past
        slot = cast("AttentionSlot | None", context.slot)
        if self.block.packed:
            q, k, v = self.qkv_proj(x).split(self.rows, -1)
        else:
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
            shares = 1 if context.parallel is None else context.parallel.world
            whole = past + length if shares == 1 else shares * length
            q, k = (rotate(t, self.block.rope, places, whole) for t in (q, k))
        k, v = self.keys(k), self.values(v)
        if context.parallel is not None:  # keys and values of the parts before, and our own
            k, v = (t[:, : past + length] for t in map(context.parallel.join, (k, v)))
        if slot is not None and rows is not None:
            y = self._one_a_row(q, k, v, slot, rows, past)
        elif context.documents is not None:
            y = self._within_documents(q, k, v, context.documents[:, : past + length])
        else:
            seen = self.block.seen(past + 1) - 1  # of those before, by the first new one
            if slot is not None:
                k, v = slot.join(k, v, past, seen)
            elif context.parallel is not None:
                k, v = k[:, past - seen :], v[:, past - seen :]
            y = causal_attention(q, k, v, seen, self.block.scale, self.block.sliding_window)
        y = y.reshape(batch, length, -1)  # [b, s, q_heads * hd]
        if gate is not None:
            y = y * torch.sigmoid(gate)
        if self.kept is not None:
            y = y * self.kept
        return self.o_proj(y)

    def watch(self, point: str, read: Callable[[Tensor], None]) -> RemovableHandle:
        """As ``ResidualBlock.watch``, with the points of its own."""
        if point in CACHED:
            module = self.get_submodule(point)
            return module.register_forward_hook(lambda m, i, output: read(output))
        return super().watch(point, read)

    def _one_a_row(
        self,
        q: Float[Tensor, "b 1 h p"],
        k: Float[Tensor, "b 1 kv p"],
        v: Float[Tensor, "b 1 kv p"],
        slot: AttentionSlot,
        rows: Rows,
        past: int,
    ) -> Float[Tensor, "b 1 h p"]:
        """Each row's query sees the keys of its row so far, a window's at most."""
        if self.block.sliding_window is not None:
            rows = rows.wrapped(slot.keys.shape[1])
        slot.keys[rows.index, rows.positions] = k[:, 0].to(slot.keys.dtype)
        slot.values[rows.index, rows.positions] = v[:, 0].to(slot.values.dtype)
        most = self.block.seen(past + 1)
        return row_attention(q, slot.keys, slot.values, rows, most, self.block.scale)

    def _within_documents(
        self,
        q: Float[Tensor, "b s h p"],
        k: Float[Tensor, "b t kv p"],
        v: Float[Tensor, "b t kv p"],
        documents: Int[Tensor, "b t"],
    ) -> Float[Tensor, "b s h p"]:
        """Queries, of the last s tokens, see the keys before them of their own document, and of
        their window.
        """
        past = k.shape[1] - q.shape[1]
        mask = documents[:, past:, None] == documents[:, None, :]  # [b, s, t]
        mask = mask.tril_(past)
        if self.block.sliding_window is not None:
            mask = mask.triu_(past + 1 - self.block.sliding_window)
        # the same for all heads: [b, 1, s, t]
        return masked_attention(q, k, v, mask[:, None], self.block.scale)
