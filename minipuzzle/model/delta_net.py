"""How gated DeltaNet runs: q, k and v through a convolution, the gated delta rule, and a norm of
each head's values with a gate (arXiv:2412.06464).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minipuzzle.kernels import Kernels
from minipuzzle.kernels.delta import gates, l2_norm
from minipuzzle.kernels.pointwise import gated_rms_norm
from minipuzzle.kinds import Block, DeltaNet, Kept
from minipuzzle.model.base import Context, ResidualBlock
from minipuzzle.model.cache import Room
from minipuzzle.model.masks import index_mask
from minipuzzle.model.norm import RMSNorm
from minipuzzle.model.recurrent import RecurrentSlot, enter, leave, reset_recurrence
from minipuzzle.shapes import Float

KEYS = "key_groups*key_dim"
GATES_STD = 0.02


class DeltaNetBlock(ResidualBlock):
    """out_proj(norm(rule(conv(q, k, v), decay, beta)) * silu(z)).

    Has a point of its own: "keys" [b, s, 2 x key_groups x key_dim], q and k as the rule reads them.
    """

    kind = DeltaNet.kind
    block: DeltaNet

    def __init__(self, block: DeltaNet, eps: float, kernels: Kernels) -> None:
        super().__init__(block, eps, kernels)
        self.kernels = kernels
        self.kept_keys: Tensor | None = None  # [key_groups, key_dim] bool; None for all
        self._readers: OrderedDict[int, Callable[[Tensor], None]] = OrderedDict()  # of "keys"
        self.in_proj_qkvz = nn.Linear(block.hidden, block.conv_channels + block.values, bias=False)
        self.in_proj_ba = nn.Linear(block.hidden, 2 * block.heads, bias=False)
        self.conv = nn.Conv1d(
            block.conv_channels,
            block.conv_channels,
            block.conv_kernel,
            groups=block.conv_channels,
            bias=False,
        )
        self.dt_bias = nn.Parameter(torch.zeros(block.heads))
        self.A_log = nn.Parameter(torch.zeros(block.heads))
        own = block.gated_norm_eps
        self.gated_norm = RMSNorm(block.value_dim, eps if own is None else own)
        self.out_proj = nn.Linear(block.values, block.hidden, bias=False)

    @classmethod
    def new_slot(cls, block: Block, room: Room) -> RecurrentSlot:
        """As ``RecurrentSlot.empty``."""
        b = cast(DeltaNet, block)
        window, state = (b.conv_channels, b.conv_kernel), (b.heads, b.key_dim, b.value_dim)
        return RecurrentSlot.empty(room, window, state)

    def reset(self, generator: torch.Generator) -> None:
        """b and a as the other matrices; the rest as ``reset_recurrence``."""
        self.in_proj_ba.weight.normal_(0.0, GATES_STD, generator=generator)
        reset_recurrence(self, generator)

    def mixer(self, x: Float[Tensor, "b s d"], context: Context) -> Float[Tensor, "b s d"]:
        """One step of the rule where a token follows in a cache, else many at once."""
        b, slot = self.block, cast("RecurrentSlot | None", context.slot)
        convolved, z = self.in_proj_qkvz(x).split([b.conv_channels, b.values], dim=-1)
        # [b, s, heads]
        decay, beta = gates(self.in_proj_ba(x), self.A_log, self.dt_bias, b.beta_scale)
        if slot is not None and context.past and x.shape[1] == 1:
            weight = self.conv.weight[:, 0]
            convolved = self.kernels.causal_conv_step(convolved[:, 0], slot.window, weight, None)
            q, k, v = self._parts(convolved[:, None])
            y = self.kernels.delta_step(
                q[:, 0], k[:, 0], v[:, 0], slot.state, decay[:, 0], beta[:, 0]
            )[:, None]
        else:
            convolved, entering = self._convolve(convolved, context)
            q, k, v = self._parts(convolved)
            y, state = self.kernels.delta_rule(
                q,
                k,
                v,
                decay,
                beta,
                documents=context.own_documents(x.shape[1]),
                initial_state=entering,
            )
            y = leave(y, state, context)
        # y [b, s, heads, value_dim]
        if self.kept_keys is not None:  # the rule divides by the root of the channels of a key
            y = y * (b.key_dim / self.kept_keys.sum(-1).max()).sqrt()
        norm, z = self.gated_norm, z.unflatten(-1, (b.heads, b.value_dim))
        if norm.kept is None:
            y = gated_rms_norm(y, norm.weight, norm.eps, z)
        else:
            y = norm(y) * F.silu(z)
        y = y.flatten(-2)  # [b, s, heads * value_dim]
        return self.out_proj(y if self.kept is None else y * self.kept)

    def _convolve(
        self, inputs: Float[Tensor, "b s c"], context: Context
    ) -> tuple[Float[Tensor, "b s c"], Float[Tensor, "b h p w"] | None]:
        """(silu of the convolution over q|k|v, the state before the first token)."""
        b, length = self.block, inputs.shape[1]
        inputs, entering = enter(inputs, context, b.conv_kernel, (b.heads, b.key_dim, b.value_dim))
        before = inputs.shape[1] - length
        convolved: Tensor = self.kernels.causal_conv(
            inputs, self.conv.weight[:, 0], None, context.own_documents(length, before)
        )
        return convolved[:, before:], entering

    def _parts(self, convolved: Float[Tensor, "b s c"]) -> tuple[Tensor, Tensor, Tensor]:
        """q and k [b, s, key_groups, key_dim] of length 1, v [b, s, heads, value_dim]."""
        b = self.block
        pair, v = convolved.split([2 * b.keys, b.values], dim=-1)
        pair = pair.unflatten(-1, (2, b.key_groups, b.key_dim))
        if self.kept_keys is not None:
            pair = pair * self.kept_keys
        pair = l2_norm(pair).flatten(-3)  # [b, s, q|k]
        for read in list(self._readers.values()):
            read(pair)
        q, k = pair.unflatten(-1, (2, b.key_groups, b.key_dim)).unbind(-3)
        return q, k, v.unflatten(-1, (b.heads, b.value_dim))

    def watch(self, point: str, read: Callable[[Tensor], None]) -> RemovableHandle:
        """As ``ResidualBlock.watch``, with the point of its own."""
        if point != "keys":
            return super().watch(point, read)
        handle = RemovableHandle(self._readers)
        self._readers[handle.id] = read
        return handle

    def masks(self, kept: Kept) -> list[tuple[Any, str, Tensor | None]]:
        """As ``ResidualBlock.masks``; channels of keys are 0 before their norm."""
        others = {name: chosen for name, chosen in kept.items() if name != KEYS}
        shape = (self.block.key_groups, self.block.key_dim)
        mask = index_mask(math.prod(shape), kept.get(KEYS), self.norm.weight.device)
        return [
            *super().masks(others),
            (self, "kept_keys", None if mask is None else mask.view(shape)),
        ]
