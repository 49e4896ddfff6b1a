"""How each kind of block runs: h + mixer(norm(h)), the residual multiplier inside the mixer. Any
sizes; masks give what a sliced block would.

Attribute names of submodules and parameters are the canonical tensor names of
``minipuzzle.arch.blocks``. ``kept`` of a block maps an axis to a bool mask; an absent axis is
whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minipuzzle.kernels import Kernels
from minipuzzle.kernels.attention import causal_attention, row_attention
from minipuzzle.kernels.pointwise import relu_squared, silu_product
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2
from minipuzzle.model.cache import AttentionSlot, MambaSlot
from minipuzzle.model.norm import RMSNorm
from minipuzzle.model.rope import rotate

Masks = dict[str, Tensor]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu2": relu_squared, "silu": F.silu}


class _Residual(nn.Module):
    """h + mixer(norm(h)): what is sharded, and computed again in the backward pass, as one."""

    def forward(
        self: Any,
        h: Tensor,
        documents: Tensor | None = None,
        slot: Any = None,
        past: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        added = self.mixer(self.norm(h), documents, slot, past)
        result: Tensor = h + (added if mask is None else added * mask)
        return result


class AttentionBlock(_Residual):
    """Causal grouped-query attention, without position embedding (arXiv:2504.03624) or with a
    rotary one.
    """

    def __init__(self, block: Attention, eps: float) -> None:
        super().__init__()
        self.block = block
        self.kept: Masks = {}
        d, hd = block.hidden, block.attn_head_dim
        self.norm = RMSNorm(d, eps)
        self.q_proj = nn.Linear(d, block.q_heads * hd, bias=block.bias)
        self.k_proj = nn.Linear(d, block.kv_heads * hd, bias=block.bias)
        self.v_proj = nn.Linear(d, block.kv_heads * hd, bias=block.bias)
        self.o_proj = nn.Linear(block.q_heads * hd, d, bias=block.out_bias)
        if block.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(hd, eps), RMSNorm(hd, eps)

    def mixer(
        self, x: Tensor, documents: Tensor | None, slot: AttentionSlot | None, past: int
    ) -> Tensor:
        batch, length, _ = x.shape
        hd = self.block.attn_head_dim
        q, k, v = (
            proj(x).view(batch, length, -1, hd) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.block.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        rows = None if slot is None else slot.rows
        if self.block.rope is not None:
            places = (
                torch.arange(past, past + length, device=x.device)[None]
                if rows is None
                else rows.positions[:, None]
            )
            q, k = (rotate(t, self.block.rope, places, past + length) for t in (q, k))
        if slot is not None and rows is not None:
            slot.keys[rows.index, rows.positions] = k[:, 0].to(slot.keys.dtype)
            slot.values[rows.index, rows.positions] = v[:, 0].to(slot.values.dtype)
            y = row_attention(q, slot.keys, slot.values, rows, past + 1, self.block.scale)
        elif documents is not None:
            y = self._within_documents(q, k, v, documents)
        else:
            if slot is not None:
                slot.keys[:, past : past + length] = k
                slot.values[:, past : past + length] = v
                if past:
                    k, v = (t[:, : past + length].to(q.dtype) for t in (slot.keys, slot.values))
            y = causal_attention(q, k, v, past, self.block.scale)
        if "q_heads" in self.kept:
            y = y * self.kept["q_heads"][:, None]
        return _added(self.o_proj(y.reshape(batch, length, -1)), self.block)

    def _within_documents(self, q: Tensor, k: Tensor, v: Tensor, documents: Tensor) -> Tensor:
        length = q.shape[1]
        same = documents[:, :, None] == documents[:, None, :]
        mask = (same & torch.ones(length, length, dtype=torch.bool, device=q.device).tril())[
            :, None
        ]
        ratio = self.block.q_heads // self.block.kv_heads
        if (
            q.is_cuda and ratio > 1
        ):  # CUDA's kernel for masks wants equal heads; without it all scores are held
            k, v = (t.repeat_interleave(ratio, 2) for t in (k, v))
        return F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            scale=self.block.scale,
            enable_gqa=q.shape[2] != k.shape[2],
        ).transpose(1, 2)


class Mamba2Block(_Residual):
    """Mamba-2 with z|x|B|C|dt packed in one projection and a gated, grouped norm (arXiv:2405.21060,
    2504.03624).
    """

    def __init__(self, block: Mamba2, eps: float, kernels: Kernels) -> None:
        super().__init__()
        self.block = block
        self.kernels = kernels
        self.eps = eps
        self.kept: Masks = {}
        packed = block.inner + block.conv_channels + block.heads
        self.norm = RMSNorm(block.hidden, eps)
        self.in_proj = nn.Linear(block.hidden, packed, bias=block.proj_bias)
        self.conv = nn.Conv1d(
            block.conv_channels,
            block.conv_channels,
            block.conv_kernel,
            groups=block.conv_channels,
            bias=block.conv_bias,
        )
        self.dt_bias = nn.Parameter(torch.zeros(block.heads))
        self.A_log = nn.Parameter(torch.zeros(block.heads))
        self.D = nn.Parameter(torch.ones(block.heads))
        self.gated_norm = nn.Module()
        self.gated_norm.weight = nn.Parameter(torch.ones(block.inner))
        self.out_proj = nn.Linear(block.inner, block.hidden, bias=block.proj_bias)

    def mixer(
        self, x: Tensor, documents: Tensor | None, slot: MambaSlot | None, past: int
    ) -> Tensor:
        b = self.block
        projected = self.in_proj(x)
        if (
            slot is None
            and not self.kept
            and self.kernels.can_mix(projected.shape[-1], b.conv_channels)
        ):
            y = self.kernels.mix(
                projected,
                self.conv.weight[:, 0],
                self.conv.bias,
                self.dt_bias,
                self.A_log,
                self.D,
                self.gated_norm.weight,
                head_dim=b.head_dim,
                groups=b.groups,
                chunk_size=b.chunk_size,
                eps=self.eps,
                documents=documents,
            )
            return _added(self.out_proj(y), b)
        z, convolved, dt = projected.split([b.inner, b.conv_channels, b.heads], dim=-1)
        dt = F.softplus(dt.float() + self.dt_bias.float())
        a = -self.A_log.float().exp()
        weight, bias = self.conv.weight[:, 0], self.conv.bias
        if slot is not None and past and x.shape[1] == 1:
            y = self._step(convolved[:, 0], dt[:, 0], a, weight, bias, slot)[:, None]
        else:
            y = self._scan(convolved, dt, a, weight, bias, documents, slot, past)
        y = self.kernels.gated_norm(
            y.flatten(-2), z, self.gated_norm.weight, b.groups, self.eps, self.kept.get("channels")
        )
        return _added(self.out_proj(y), b)

    def _scan(
        self,
        convolved: Tensor,
        dt: Tensor,
        a: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        documents: Tensor | None,
        slot: MambaSlot | None,
        past: int,
    ) -> Tensor:
        b = self.block
        before = b.conv_kernel - 1 if slot is not None and past else 0
        if slot is not None:
            if before:
                convolved = torch.cat(
                    (slot.window[..., 1:].transpose(1, 2).to(convolved.dtype), convolved), 1
                )
            tail = convolved[:, -b.conv_kernel :].transpose(1, 2)
            slot.window.zero_()
            slot.window[..., b.conv_kernel - tail.shape[-1] :] = tail
        convolved = self.kernels.causal_conv(convolved, weight, bias, documents)[:, before:]
        xs, bs, cs = self._parts(convolved)
        y, state = self.kernels.scan(
            xs,
            dt,
            a,
            bs,
            cs,
            self.D,
            chunk_size=b.chunk_size,
            documents=documents,
            initial_state=slot.state if slot is not None and past else None,
        )
        if slot is not None:
            slot.state.copy_(state)
        result: Tensor = y
        return result

    def _step(
        self,
        convolved: Tensor,
        dt: Tensor,
        a: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        slot: MambaSlot,
    ) -> Tensor:
        xs, bs, cs = self._parts(
            self.kernels.causal_conv_step(convolved, slot.window, weight, bias)
        )
        y: Tensor = self.kernels.scan_step(xs, slot.state, dt, a, bs, cs, self.D)
        return y

    def _parts(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b = self.block
        xs, bs, cs = convolved.split([b.inner, b.groups * b.state, b.groups * b.state], dim=-1)
        return (
            xs.unflatten(-1, (b.heads, b.head_dim)),
            bs.unflatten(-1, (b.groups, b.state)),
            cs.unflatten(-1, (b.groups, b.state)),
        )


class FeedForwardBlock(_Residual):
    """down(f(up(x))) or down(f(gate(x)) * up(x)), f = relu^2 or silu."""

    def __init__(self, block: FeedForward, eps: float) -> None:
        super().__init__()
        self.block = block
        self.kept: Masks = {}
        self.norm = RMSNorm(block.hidden, eps)
        if block.packed:
            self.gate_up_proj = nn.Linear(block.hidden, 2 * block.intermediate, bias=block.bias)
        else:
            self.up_proj = nn.Linear(block.hidden, block.intermediate, bias=block.bias)
            if block.gated:
                self.gate_proj = nn.Linear(block.hidden, block.intermediate, bias=block.bias)
        self.down_proj = nn.Linear(block.intermediate, block.hidden, bias=block.bias)

    def mixer(self, x: Tensor, documents: Tensor | None, slot: None, past: int) -> Tensor:
        activation = ACTIVATIONS[self.block.activation]
        y = self._gated(x, activation) if self.block.gated else activation(self.up_proj(x))
        if "intermediate" in self.kept:
            y = y * self.kept["intermediate"]
        return _added(self.down_proj(y), self.block)

    def _gated(self, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        gate, up = (
            self.gate_up_proj(x).chunk(2, -1)
            if self.block.packed
            else (self.gate_proj(x), self.up_proj(x))
        )
        return silu_product(gate, up) if activation is F.silu else activation(gate) * up


def _added(y: Tensor, block: Block) -> Tensor:
    return y if block.residual_multiplier == 1 else y * block.residual_multiplier


BlockModule = AttentionBlock | Mamba2Block | FeedForwardBlock


def make_block(block: Block, eps: float, kernels: Kernels) -> BlockModule:
    """The module that runs a block."""
    if isinstance(block, Mamba2):
        return Mamba2Block(block, eps, kernels)
    if isinstance(block, Attention):
        return AttentionBlock(block, eps)
    if isinstance(block, FeedForward):
        return FeedForwardBlock(block, eps)
    raise NotImplementedError(f"no module runs the kind {block.kind!r}")
