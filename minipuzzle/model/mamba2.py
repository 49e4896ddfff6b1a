"""How Mamba-2 runs, with z|x|B|C|dt packed in one projection and a gated, grouped norm
(arXiv:2405.21060, 2504.03624).
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
from minipuzzle.kinds import Block, Kept, Mamba2
from minipuzzle.model.base import Context, ResidualBlock
from minipuzzle.model.cache import Room
from minipuzzle.model.masks import index_mask
from minipuzzle.model.recurrent import RecurrentSlot, enter, leave, reset_recurrence
from minipuzzle.shapes import Float

STATE = "groups*state"


class Mamba2Block(ResidualBlock):
    """out_proj(gated_norm(scan(conv(x, B, C), dt), z)).

    Has a point of its own: "state" [b, s, 2 x groups x n], B and C as the scan reads them.
    """

    kind = Mamba2.kind
    block: Mamba2

    def __init__(self, block: Mamba2, eps: float, kernels: Kernels) -> None:
        super().__init__(block, eps, kernels)
        self.kernels = kernels
        self.eps = eps
        self.kept_state: Tensor | None = None  # [groups, state] bool; None for all of it
        self._readers: OrderedDict[int, Callable[[Tensor], None]] = OrderedDict()  # of "state"
        packed = block.inner + block.conv_channels + block.heads
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
        self.gated_norm = nn.Module()  # kernels norm with the gate: this holds the weight alone
        self.gated_norm.weight = nn.Parameter(torch.ones(block.inner))
        self.out_proj = nn.Linear(block.inner, block.hidden, bias=block.proj_bias)

    @classmethod
    def new_slot(cls, block: Block, room: Room) -> RecurrentSlot:
        """As ``RecurrentSlot.empty``."""
        b = cast(Mamba2, block)
        window, state = (b.conv_channels, b.conv_kernel), (b.heads, b.head_dim, b.state)
        return RecurrentSlot.empty(room, window, state)

    def reset(self, generator: torch.Generator) -> None:
        """As ``reset_recurrence``."""
        reset_recurrence(self, generator)

    def mixer(self, x: Float[Tensor, "b s d"], context: Context) -> Float[Tensor, "b s d"]:
        """One step of the recurrence where a token follows in a cache, else the scan."""
        b, slot, past = self.block, cast("RecurrentSlot | None", context.slot), context.past
        projected = self.in_proj(x)  # [b, s, z|x|B|C|dt]
        # a slot and the part of a sequence need the states, a mask the norm and a reader B and C,
        # that the fused kernel does not give
        if (
            slot is None
            and context.parallel is None
            and not self._readers
            and self.kept is None
            and self.kept_state is None
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
                documents=context.documents,
            )
            return self.out_proj(y)
        # z [b, s, inner], convolved [b, s, x|B|C], dt [b, s, heads]
        z, convolved, dt = projected.split([b.inner, b.conv_channels, b.heads], dim=-1)
        dt = F.softplus(dt.float() + self.dt_bias.float())
        a = -self.A_log.float().exp()
        weight, bias = self.conv.weight[:, 0], self.conv.bias
        if slot is not None and past and x.shape[1] == 1:
            y = self._step(convolved[:, 0], dt[:, 0], a, weight, bias, slot)[:, None]
        else:
            y = self._scan(convolved, dt, a, weight, bias, context)
        # y [b, s, heads, head_dim] -> [b, s, inner]
        y = self.kernels.gated_norm(
            y.flatten(-2), z, self.gated_norm.weight, b.groups, self.eps, self.kept
        )
        return self.out_proj(y)

    def _scan(
        self,
        convolved: Float[Tensor, "b s c"],
        dt: Float[Tensor, "b s h"],
        a: Float[Tensor, " h"],
        weight: Float[Tensor, "c k"],
        bias: Float[Tensor, " c"] | None,
        context: Context,
    ) -> Float[Tensor, "b s h p"]:
        """Of many tokens; convolved is x|B|C."""
        b = self.block
        convolved, entering = enter(
            convolved, context, b.conv_kernel, (b.heads, b.head_dim, b.state)
        )
        before = convolved.shape[1] - dt.shape[1]
        near = context.own_documents(dt.shape[1], before)
        convolved = self.kernels.causal_conv(convolved, weight, bias, near)
        xs, bs, cs = self._parts(convolved[:, before:])
        y, state = self.kernels.scan(
            xs,
            dt,
            a,
            bs,
            cs,
            self.D,
            chunk_size=b.chunk_size,
            documents=context.own_documents(dt.shape[1]),
            initial_state=entering,
        )
        return leave(y, state, context)

    def _step(
        self,
        convolved: Float[Tensor, "b c"],
        dt: Float[Tensor, "b h"],
        a: Float[Tensor, " h"],
        weight: Float[Tensor, "c k"],
        bias: Float[Tensor, " c"] | None,
        slot: RecurrentSlot,
    ) -> Float[Tensor, "b h p"]:
        """Of one token a row; convolved is x|B|C."""
        xs, bs, cs = self._parts(
            self.kernels.causal_conv_step(convolved, slot.window, weight, bias)
        )
        y: Tensor = self.kernels.scan_step(xs, slot.state, dt, a, bs, cs, self.D)
        return y

    def _parts(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [..., heads, head_dim], B and C [..., groups, n]."""
        b = self.block
        xs, pair = convolved.split([b.inner, 2 * b.groups * b.state], dim=-1)
        for read in list(self._readers.values()):
            read(pair)
        bs, cs = pair.chunk(2, dim=-1)
        cs = cs.unflatten(-1, (b.groups, b.state))
        if self.kept_state is not None:  # what C does not read of the state adds nothing to y
            cs = cs * self.kept_state
        return xs.unflatten(-1, (b.heads, b.head_dim)), bs.unflatten(-1, (b.groups, b.state)), cs

    def watch(self, point: str, read: Callable[[Tensor], None]) -> RemovableHandle:
        """As ``ResidualBlock.watch``, with the point of its own."""
        if point != "state":
            return super().watch(point, read)
        handle = RemovableHandle(self._readers)
        self._readers[handle.id] = read
        return handle

    def masks(self, kept: Kept) -> list[tuple[Any, str, Tensor | None]]:
        """As ``ResidualBlock.masks``; of the state a mask of what C reads."""
        others = {name: chosen for name, chosen in kept.items() if name != STATE}
        shape = (self.block.groups, self.block.state)
        mask = index_mask(math.prod(shape), kept.get(STATE), self.norm.weight.device)
        return [
            *super().masks(others),
            (self, "kept_state", None if mask is None else mask.view(shape)),
        ]
