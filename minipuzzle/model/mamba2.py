"""How Mamba-2 runs, with z|x|B|C|dt packed in one projection and a gated, grouped norm
(arXiv:2405.21060, 2504.03624).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minipuzzle.kernels import Kernels
from minipuzzle.kinds import Block, Kept, Mamba2
from minipuzzle.model.base import Context, ResidualBlock
from minipuzzle.model.cache import Room, Slot
from minipuzzle.model.masks import index_mask
from minipuzzle.shapes import Float

STATE = "groups*state"


@dataclass(kw_only=True)
class MambaSlot(Slot):
    """``window`` [b, conv_channels, kernel]: the last inputs of the convolution; ``state`` [b,
    heads, head_dim, n].
    """

    terms: ClassVar[dict[str, str]] = {"window": "window", "state": "state"}

    window: Tensor
    state: Tensor


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
    def new_slot(cls, block: Block, room: Room) -> MambaSlot:
        """The window in ``kv_dtype``, as the activations that it holds; the state, which sums over
        all tokens, in ``state_dtype``.
        """
        b = cast(Mamba2, block)
        window = (room.batch, b.conv_channels, b.conv_kernel)
        state = (room.batch, b.heads, b.head_dim, b.state)
        return MambaSlot(
            window=torch.zeros(window, device=room.device, dtype=room.kv_dtype),
            state=torch.zeros(state, device=room.device, dtype=room.state_dtype),
        )

    def reset(self, generator: torch.Generator) -> None:
        """The convolution uniform within 1/sqrt(kernel); A uniform in 1..16, dt log-uniform in
        1e-3..0.1, as in mamba-ssm (arXiv:2405.21060).
        """
        bound = 1 / math.sqrt(self.block.conv_kernel)
        self.conv.weight.uniform_(-bound, bound, generator=generator)
        self.A_log.uniform_(1.0, 16.0, generator=generator).log_()
        dt = torch.empty_like(self.dt_bias)
        dt = dt.uniform_(math.log(1e-3), math.log(0.1), generator=generator).exp()
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus(dt_bias) == dt

    def mixer(self, x: Float[Tensor, "b s d"], context: Context) -> Float[Tensor, "b s d"]:
        """One step of the recurrence where a token follows in a cache, else the scan."""
        b, slot, past = self.block, cast("MambaSlot | None", context.slot), context.past
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
        b, slot, parallel = self.block, cast("MambaSlot | None", context.slot), context.parallel
        before = b.conv_kernel - 1 if slot is not None and context.past else 0
        entering = slot.state if slot is not None and context.past else None
        if parallel is not None:
            shape = (len(dt), b.heads, b.head_dim, b.state)
            convolved, entering = context.enter(convolved, b.conv_kernel - 1, shape)
            before = convolved.shape[1] - dt.shape[1]
        if slot is not None:
            if before:  # the convolution reaches kernel - 1 tokens back, into the window
                convolved = torch.cat(
                    (slot.window[..., 1:].transpose(1, 2).to(convolved.dtype), convolved), 1
                )
            tail = convolved[:, -b.conv_kernel :].transpose(1, 2)  # [b, x|B|C, <= kernel]
            slot.window.zero_()
            slot.window[..., b.conv_kernel - tail.shape[-1] :] = tail
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
        if slot is not None:
            slot.state.copy_(state)
        if parallel is not None:
            y = parallel.leave(y, state)
        result: Tensor = y
        return result

    def _step(
        self,
        convolved: Float[Tensor, "b c"],
        dt: Float[Tensor, "b h"],
        a: Float[Tensor, " h"],
        weight: Float[Tensor, "c k"],
        bias: Float[Tensor, " c"] | None,
        slot: MambaSlot,
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
