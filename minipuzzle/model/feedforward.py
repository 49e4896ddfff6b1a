"""How a feed-forward block runs: down(f(up(x))) or down(f(gate(x)) * up(x)), f = relu^2 or silu."""

from __future__ import annotations

from torch import Tensor, nn

from minipuzzle.kernels import Kernels
from minipuzzle.kernels.pointwise import channels_of, gate_product
from minipuzzle.kinds import Block, FeedForward
from minipuzzle.model.base import Context, ResidualBlock
from minipuzzle.model.cache import Room
from minipuzzle.shapes import Float


class FeedForwardBlock(ResidualBlock):
    """Two matrices, or three where it is gated, of which two may be packed in one."""

    kind = FeedForward.kind
    block: FeedForward

    def __init__(self, block: FeedForward, eps: float, kernels: Kernels) -> None:
        super().__init__(block, eps, kernels)
        if block.packed:
            self.gate_up_proj = nn.Linear(block.hidden, 2 * block.intermediate, bias=block.bias)
        else:
            self.up_proj = nn.Linear(block.hidden, block.intermediate, bias=block.bias)
            if block.gated:
                self.gate_proj = nn.Linear(block.hidden, block.intermediate, bias=block.bias)
        self.down_proj = nn.Linear(block.intermediate, block.hidden, bias=block.bias)

    @classmethod
    def new_slot(cls, block: Block, room: Room) -> None:
        """Nothing: a token does not see the others."""
        return None

    def mixer(self, x: Float[Tensor, "b s d"], context: Context) -> Float[Tensor, "b s d"]:
        """down of the channels [b, s, intermediate]."""
        y = self._channels(x)
        if self.kept is not None:
            y = y * self.kept
        return self.down_proj(y)

    def _channels(self, x: Tensor) -> Tensor:
        b = self.block
        if b.gated and not b.packed:
            return gate_product(self.gate_proj(x), self.up_proj(x), b.activation)
        up = self.gate_up_proj if b.packed else self.up_proj
        return channels_of(b.activation, b.gated)(up(x))
