"""Sequences that are divided among processes, each of which has one part of every one (context
parallelism): what crosses the borders, with its gradient.

Parts are contiguous and of one length, in the order of the processes. Attention reads the keys and
values of all parts, gathered (arXiv:2407.21783, section 3.3.2). A convolution reads the end of the
part before. A recurrence goes on from the state in which the process before has ended, so that
processes scan one after another: exact for every rule, whatever its state's transition is.

Every process must do the same in the same order, and a gradient must reach all or none of them:
what crosses blocks until the other side has come as far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from minipuzzle.errors import UserError
from minipuzzle.shapes import Float, Float32

_ROWS = torch.contiguous_format


@dataclass(frozen=True, kw_only=True)
class ContextParallel:
    """This process's part, number ``rank`` of ``world``; ``group`` has all that share a sequence,
    None for torch's default group.
    """

    rank: int
    world: int
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this part begins the sequence."""
        return self.rank == 0

    @property
    def last(self) -> bool:
        """Whether this part ends the sequence."""
        return self.rank == self.world - 1

    def part(self, length: int) -> slice:
        """Where this process's part of a sequence of ``length`` tokens is: each has as many.

        Raises: ValueError where that cannot be.
        """
        each, over = divmod(length, self.world)
        if over:
            raise ValueError(f"{length} tokens in {self.world} equal parts")
        return slice(self.rank * each, (self.rank + 1) * each)

    def join(self, x: Float[Tensor, "b s *rest"]) -> Float[Tensor, "b t *rest"]:
        """The parts of all processes, one after another: t = s x world."""
        joined: Tensor = _Join.apply(x, self)
        return joined

    def with_tail(self, x: Float[Tensor, "b s c"], count: int) -> Float[Tensor, "b t c"]:
        """x after the last ``count`` tokens of the part before; x itself in the first part.

        Raises: UserError where a part is shorter than that.
        """
        if x.shape[1] < count:
            raise UserError(
                "A part of a sequence is shorter than a convolution.",
                got=f"{x.shape[1]} tokens in each of {self.world} parts",
                allowed=f"at least {count}",
                next="Give longer blocks with data.length, or lower training.context_parallel.",
            )
        return torch.cat((_Tail.apply(x[:, x.shape[1] - count :], self), x), 1)

    def enter(
        self, x: Float[Tensor, "b s c"], shape: tuple[int, ...]
    ) -> tuple[Float[Tensor, "b s c"], Float32[Tensor, "*shape"] | None]:
        """(x, the state in which the part before ended; None in the first part). The state has a
        gradient where x has one, which must be wherever the state that leaves has one.
        """
        if self.first:
            return x, None
        entered: tuple[Tensor, Tensor] = _Enter.apply(x, shape, self)
        return entered

    def leave(
        self, y: Float[Tensor, "b s *rest"], state: Float32[Tensor, "*shape"]
    ) -> Float[Tensor, "b s *rest"]:
        """y; the part after this one goes on from ``state``."""
        if self.last:
            return y
        left: Tensor = _Leave.apply(y, state, self)
        return left

    def _swap(self, sent: Tensor | None, to: int, received: Tensor | None, source: int) -> None:
        """Send to and receive from two parts at once, each where there is something to."""
        work = []
        for operation, tensor, other in ((dist.isend, sent, to), (dist.irecv, received, source)):
            if tensor is not None:
                work.append(dist.P2POp(operation, tensor, group=self.group, group_peer=other))
        for each in dist.batch_isend_irecv(work) if work else ():
            each.wait()


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parallel: ContextParallel) -> Tensor:
        ctx.parallel, ctx.dtype = parallel, x.dtype
        found = [torch.empty_like(x, memory_format=_ROWS) for _ in range(parallel.world)]
        dist.all_gather(found, x.contiguous(), group=parallel.group)
        return torch.cat(found, 1)  # [b, world * s, ...]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        # world x [b, s, ...], summed in FP32 as gradients are
        parts = [part.contiguous() for part in grads[0].float().chunk(ctx.parallel.world, 1)]
        found = torch.empty_like(parts[0])
        dist.reduce_scatter(found, parts, group=ctx.parallel.group)
        return found.to(ctx.dtype), None


class _Tail(torch.autograd.Function):
    """The end of this part to the next one, and that of the part before: nothing in the first."""

    @staticmethod
    def forward(ctx: Any, tail: Tensor, parallel: ContextParallel) -> Tensor:
        ctx.parallel = parallel
        ctx.like = tail.shape, tail.dtype, tail.device
        found = torch.empty_like(
            tail[:, :0] if parallel.first else tail, memory_format=torch.contiguous_format
        )
        parallel._swap(
            None if parallel.last else tail.contiguous(),
            parallel.rank + 1,
            None if parallel.first else found,
            parallel.rank - 1,
        )
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        parallel = ctx.parallel
        shape, dtype, device = ctx.like
        found = torch.zeros(shape, dtype=dtype, device=device)
        parallel._swap(
            None if parallel.first else grads[0].contiguous(),
            parallel.rank - 1,
            None if parallel.last else found,
            parallel.rank + 1,
        )
        return found, None


class _Enter(torch.autograd.Function):
    """Takes x with it so that the state's gradient is sent before that of x goes on: messages
    between two processes have one order.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...], parallel: ContextParallel) -> Any:
        ctx.parallel = parallel
        state = torch.empty(shape, dtype=torch.float32, device=x.device)
        parallel._swap(None, 0, state, parallel.rank - 1)
        return x.view_as(x), state

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        d_x, d_state = grads
        ctx.parallel._swap(d_state.float().contiguous(), ctx.parallel.rank - 1, None, 0)
        return d_x, None, None


class _Leave(torch.autograd.Function):
    """Takes y with it so that its backward pass, where the state's gradient comes in, is part of
    y's.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, state: Tensor, parallel: ContextParallel) -> Tensor:
        ctx.parallel, ctx.shape = parallel, state.shape
        parallel._swap(state.float().contiguous(), parallel.rank + 1, None, 0)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        d_state = torch.empty(ctx.shape, dtype=torch.float32, device=grads[0].device)
        ctx.parallel._swap(None, 0, d_state, ctx.parallel.rank + 1)
        return grads[0], d_state, None
