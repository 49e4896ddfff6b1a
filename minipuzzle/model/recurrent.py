"""What blocks of a convolution and a recurrence share: the slot that holds the inputs of the one
and the state of the other, and the first values of their parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from minipuzzle.model.base import Context
from minipuzzle.model.cache import Room, Slot
from minipuzzle.shapes import Float, Float32


@dataclass(kw_only=True)
class RecurrentSlot(Slot):
    """``window`` [b, channels, kernel]: the last inputs of the convolution; ``state`` [b, heads,
    ...]: of the recurrence.
    """

    terms: ClassVar[dict[str, str]] = {"window": "window", "state": "state"}

    window: Tensor
    state: Tensor

    @classmethod
    def empty(cls, room: Room, window: tuple[int, int], state: tuple[int, int, int]) -> Self:
        """The window in ``kv_dtype``, as the activations that it holds; the state, which sums over
        all tokens, in ``state_dtype``. Sizes without the batch.
        """
        return cls(
            window=torch.zeros(room.batch, *window, device=room.device, dtype=room.kv_dtype),
            state=torch.zeros(room.batch, *state, device=room.device, dtype=room.state_dtype),
        )

    def enter(
        self, inputs: Float[Tensor, "b s c"], past: bool
    ) -> tuple[Float[Tensor, "b t c"], Tensor | None]:
        """(the convolution's inputs after those that it reaches back to, the state before them)
        where tokens were seen before, else (inputs, None). The last inputs are kept.
        """
        kernel, state = self.window.shape[-1], self.state if past else None
        if past:  # the convolution reaches kernel - 1 tokens back, into the window
            window = self.window[..., 1:].transpose(1, 2)  # [b, kernel - 1, c]
            inputs = torch.cat((window.to(inputs.dtype), inputs), 1)
        tail = inputs[:, -kernel:].transpose(1, 2)  # [b, c, <= kernel]
        self.window.zero_()
        self.window[..., kernel - tail.shape[-1] :] = tail
        return inputs, state


def enter(
    inputs: Float[Tensor, "b s c"], context: Context, kernel: int, state: tuple[int, int, int]
) -> tuple[Float[Tensor, "b t c"], Tensor | None]:
    """(a convolution's inputs after those before them that it reaches back to, the recurrence's
    state before the first of them or None), out of a slot, or of the process that has the part of
    the sequence before this one.
    """
    if context.parallel is not None:
        entered: tuple[Tensor, Tensor | None] = context.enter(
            inputs, kernel - 1, (len(inputs), *state)
        )
        return entered
    slot = cast("RecurrentSlot | None", context.slot)
    return (inputs, None) if slot is None else slot.enter(inputs, bool(context.past))


def leave(
    y: Float[Tensor, "b s *rest"], state: Float32[Tensor, "*shape"], context: Context
) -> Float[Tensor, "b s *rest"]:
    """``y`` of a recurrence over many tokens; who comes after them gets the last state."""
    if context.slot is not None:
        cast(RecurrentSlot, context.slot).state.copy_(state)
    return y if context.parallel is None else context.parallel.leave(y, state)


def reset_recurrence(block: Any, generator: torch.Generator) -> None:
    """The convolution uniform within 1/sqrt(kernel); A uniform in 1..16, dt log-uniform in
    1e-3..0.1, as in mamba-ssm (arXiv:2405.21060) and flash-linear-attention. ``block``: a module
    with conv, A_log and dt_bias.
    """
    bound = 1 / math.sqrt(block.conv.kernel_size[0])
    block.conv.weight.uniform_(-bound, bound, generator=generator)
    block.A_log.uniform_(1.0, 16.0, generator=generator).log_()
    dt = torch.empty_like(block.dt_bias)
    dt = dt.uniform_(math.log(1e-3), math.log(0.1), generator=generator).exp()
    block.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus(dt_bias) == dt
