"""How a gated short convolution runs, with B|C|x packed in one projection (arXiv:2511.23404)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minipuzzle.kernels import Kernels
from minipuzzle.kernels.reference import depthwise
from minipuzzle.kinds import Block, ShortConv
from minipuzzle.model.base import Context, ResidualBlock
from minipuzzle.model.cache import Room, Slot
from minipuzzle.shapes import Float


@dataclass(kw_only=True)
class ShortConvSlot(Slot):
    """``window`` [b, kernel - 1, conv_channels]: the last inputs of the convolution."""

    terms: ClassVar[dict[str, str]] = {"window": "window"}

    window: Tensor


class ShortConvBlock(ResidualBlock):
    """out_proj(C * conv(B * x)). Plain PyTorch on every device: it is a small part beside its
    projections.
    """

    kind = ShortConv.kind
    block: ShortConv

    def __init__(self, block: ShortConv, eps: float, kernels: Kernels) -> None:
        super().__init__(block, eps, kernels)
        channels = block.conv_channels
        self.in_proj = nn.Linear(block.hidden, 3 * channels, bias=block.bias)
        self.conv = nn.Conv1d(
            channels, channels, block.conv_kernel, groups=channels, bias=block.bias
        )
        self.out_proj = nn.Linear(channels, block.hidden, bias=block.bias)

    @classmethod
    def new_slot(cls, block: Block, room: Room) -> ShortConvSlot:
        """The window in ``kv_dtype``, as the activations that it holds."""
        b = cast(ShortConv, block)
        window = (room.batch, b.conv_kernel - 1, b.conv_channels)
        return ShortConvSlot(window=torch.zeros(window, device=room.device, dtype=room.kv_dtype))

    def reset(self, generator: torch.Generator) -> None:
        """The convolution uniform within 1/sqrt(kernel), PyTorch's own."""
        bound = 1 / math.sqrt(self.block.conv_kernel)
        self.conv.weight.uniform_(-bound, bound, generator=generator)

    def mixer(self, x: Float[Tensor, "b s d"], context: Context) -> Float[Tensor, "b s d"]:
        """Over the inputs that a slot remembers and the new ones."""
        gate, out_gate, values = self.in_proj(x).chunk(3, dim=-1)  # each [b, s, conv_channels]
        inputs, slot = gate * values, cast("ShortConvSlot | None", context.slot)
        if slot is not None:
            if context.past:  # the convolution reaches kernel - 1 tokens back, into the window
                inputs = torch.cat((slot.window.to(inputs.dtype), inputs), 1)
            held = min(self.block.conv_kernel - 1, inputs.shape[1])
            tail = inputs[:, inputs.shape[1] - held :]  # [b, <= kernel - 1, conv_channels]
            slot.window.copy_(F.pad(tail, (0, 0, self.block.conv_kernel - 1 - held, 0)))
        if context.parallel is not None:
            inputs = context.parallel.with_tail(inputs, self.block.conv_kernel - 1)
        documents = context.own_documents(x.shape[1], inputs.shape[1] - x.shape[1])
        y = depthwise(inputs, self.conv.weight[:, 0], self.conv.bias, documents)
        y = out_gate * y[:, -x.shape[1] :]  # [b, s, conv_channels]
        if self.kept is not None:
            y = y * self.kept
        return self.out_proj(y)
