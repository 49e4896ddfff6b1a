"""Experts that are divided among processes (expert parallelism): each token goes to those that hold
an expert that it chose, and what theirs add comes back.

Of a stack of E experts each of N processes holds ceil(E / N), the last ones what is left; E need
not be a multiple of N. A token is sent once to each process that it needs, with all its choices and
gates, and comes back as one sum. Source: arXiv:2006.16668 (GShard).

Every process must do the same in the same order: what is sent blocks until the others have come as
far. So all of them take part wherever one of them has no tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minipuzzle.kernels.experts import Call
from minipuzzle.kernels.pointwise import product_dtype
from minipuzzle.shapes import Float, Int


@dataclass(frozen=True)
class ExpertParallel:
    """``mesh`` [groups, members]: each group's members hold all experts together."""

    mesh: Any

    def divide(self, stack: nn.Parameter) -> nn.Parameter:
        """This process's share of a stack [E, rows, columns], as FSDP would cut it; every group has
        a whole one.
        """
        from torch.distributed.tensor import Replicate, Shard, distribute_tensor

        places = Replicate(), Shard(0)
        made = distribute_tensor(stack.detach(), self.mesh, places, src_data_rank=None)
        return nn.Parameter(made, requires_grad=stack.requires_grad)

    def run(self, call: Call, run_experts: Callable[[Call], Tensor]) -> Float[Tensor, "n d"]:
        """``run_experts(call)``, whose stacks are ``divide``'s: each choice by who holds its
        expert.

        Waits for the device, which says how many tokens go where. Raises: ValueError for a call
        that is watched or masked.
        """
        if call.watch is not None or call.kept is not None:
            raise ValueError("experts that are divided are neither scored nor masked")
        route, first = self._route(call.chosen, len(call.up))
        up, down = (
            _Own.apply(cast(Any, stack).to_local(), self.mesh) for stack in (call.up, call.down)
        )
        x = call.x.to(product_dtype(call.x))
        chosen = route._out(call.chosen) - first  # [m, k]
        tokens, gates = _Dispatch.apply(x, call.weights, route)  # [m, d], [m, k]
        if len(tokens):
            mine = (chosen >= 0) & (chosen < len(up))
            own = replace(
                call,
                x=tokens,
                up=up,
                down=down,
                weights=gates * mine,
                chosen=chosen.where(mine, len(up)),
                rows=route.rows,
            )
            outputs = run_experts(own)  # [m, d]
        else:  # its gradients are 0, and not missing: an optimiser steps on all or none
            nothing = gates.sum(1, keepdim=True) + 0 * (up.sum() + down.sum())
            outputs = (tokens * nothing).to(tokens.dtype)
        result: Tensor = _Combine.apply(outputs, route)
        return result

    def _route(self, chosen: Int[Tensor, "n k"], experts: int) -> tuple[_Route, int]:
        """(where tokens go, the number of the first expert here)."""
        group, rank, world = self.mesh.get_group(1), self.mesh.get_local_rank(1), self.mesh.size(1)
        step = -(-experts // world)
        owner = chosen // step  # [n, k]
        goes = owner.new_zeros(len(chosen), world, dtype=torch.bool).scatter(1, owner, True)
        choices = (owner.flatten() == torch.arange(world, device=owner.device)[:, None]).sum(1)
        counts = torch.stack((goes.sum(0), choices))  # [2, to]
        found = [torch.empty_like(counts) for _ in range(world)]
        dist.all_gather(found, counts, group=group)
        table = torch.stack(found).tolist()  # [from, 2, to]
        route = _Route(
            places=goes.t().nonzero()[:, 1],
            total=len(chosen),
            sent=table[rank][0],
            received=[row[0][rank] for row in table],
            rows=sum(row[1][rank] for row in table),
            group=group,
        )
        return route, rank * step


class _Route(NamedTuple):
    """``places`` [m] int64: which of the ``total`` tokens here go, by receiver. ``sent`` of them go
    to each process, ``received`` come from each, which chose ``rows`` times among the experts here.
    """

    places: Tensor
    total: int
    sent: list[int]
    received: list[int]
    rows: int
    group: Any

    def _out(self, x: Tensor) -> Tensor:
        """Of tokens [n, c] to those that hold their experts: [m, c]."""
        return self._swap(x[self.places], self.sent, self.received)

    def _back(self, rows: Tensor) -> Tensor:
        """The sum of what comes back [m, c] of each token [n, c], added up in FP32 or wider."""
        wide = torch.promote_types(rows.dtype, torch.float32)
        found = self._swap(rows, self.received, self.sent)
        sums = rows.new_zeros(self.total, rows.shape[1], dtype=wide)
        # one sender after another: each has a token once, so that the sum is the same every time
        for places, part in zip(self.places.split(self.sent), found.split(self.sent), strict=True):
            sums.index_add_(0, places, part.to(wide))
        return sums.to(rows.dtype)

    def _swap(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        found = rows.new_empty(sum(received), rows.shape[1])
        dist.all_to_all_single(found, rows.contiguous(), received, sent, group=self.group)
        return found


class _Dispatch(torch.autograd.Function):
    """Tokens and gates to the experts' processes; both in one, so that their gradients come back in
    one order everywhere.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gates: Tensor, route: _Route) -> Any:
        ctx.route = route
        # Activation checkpointing computes again up to the last tensor that was saved: at least up
        # to here, so that all exchange alike, also one that no tokens come to.
        ctx.save_for_backward(route.places)
        return route._out(x), route._out(gates)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return *(
            ctx.route._back(grad) if needed else None
            for grad, needed in zip(grads, ctx.needs_input_grad, strict=False)
        ), None


class _Combine(torch.autograd.Function):
    """What experts add to each token."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, route: _Route) -> Tensor:
        ctx.route = route
        return route._back(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.route._out(grads[0]), None


class _Own(torch.autograd.Function):
    """A stack's share; its gradient, which is of the tokens of a group, as FSDP's are: the mean
    over all processes.
    """

    @staticmethod
    def forward(ctx: Any, stack: Tensor, mesh: Any) -> Tensor:
        ctx.mesh = mesh
        return stack.view_as(stack)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        found = grads[0] / ctx.mesh.size()
        if ctx.mesh.size(0) > 1:
            dist.all_reduce(found, group=ctx.mesh.get_group(0))
        return found, None
