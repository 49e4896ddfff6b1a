"""The processes of one torchrun; without torchrun, one. Sums, agreement, and what a process says
when another has died.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from minipuzzle.errors import UserError

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""For the others' part in what all do together: the first process may be pruning a large model.
NCCL's own is ten minutes. A process that dies is noticed at once, by torchrun and by closed
connections.
"""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's number among ``world``, and what all of them do together. ``group`` None:
    torch's default group.
    """

    rank: int
    world: int
    device: torch.device
    group: Any = None

    def share(self, count: int) -> int:
        """How many of the first ``count`` samples are ours: samples rank, rank + world, ..."""
        return len(range(self.rank, count, self.world))

    def sum(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """The float64 array summed over all processes."""
        if self.world == 1:
            return array
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        dist.all_reduce(tensor, group=self.group)
        return tensor.cpu().numpy()

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Make each tensor, in place, the mean of all processes' ones; all of one dtype, on
        ``device``.
        """
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat, group=self.group)
        parts = flat.div_(self.world).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def least(self, number: float) -> float:
        """The least of all processes' numbers."""
        if self.world == 1:
            return number
        tensor = torch.tensor([number], dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MIN, group=self.group)
        return float(tensor.item())

    def together(self, work: Callable[[], T]) -> list[T]:
        """What ``work`` gives in each process, by rank. Raises: UserError in all of them where it
        does in one.
        """
        if self.world == 1:
            return [work()]
        parts: tuple[str, str, str, str] | None = None
        mine = None
        try:
            mine = work()
        except UserError as error:
            parts = (error.what, error.got, error.allowed, error.next)
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, (parts, mine), group=self.group)
        for failed, _ in found:
            if failed is not None:
                what, got, allowed, following = failed
                raise UserError(what, got=got, allowed=allowed, next=following)
        return [value for _, value in found]

    def by_first(self, work: Callable[[], T]) -> T:
        """``work``'s result (it can be pickled) in every process; only the first does it.

        Raises: UserError in all of them, where it does.
        """
        return self.together(lambda: work() if self.rank == 0 else None)[0]  # type: ignore[return-value]

    def said_by_first(self, word: T) -> T:
        """The first process's ``word``, which can be pickled, in every process."""
        said = [word]
        if self.world > 1:
            dist.broadcast_object_list(said, src=0, group=self.group)
        return said[0]

    def first_then_all(self, work: Callable[[], T]) -> T:
        """``work``'s result; the first process does it alone, so that the others find on disk what
        it wrote.
        """
        if self.world == 1:
            return work()
        if self.rank == 0:
            result = None

            def alone() -> None:
                nonlocal result
                result = work()

            self.together(alone)
            return result  # type: ignore[return-value]
        self.together(lambda: None)
        return work()

    def aside(self) -> Ranks:
        """The same processes over a gloo group of their own, for a thread that works beside the
        main one.
        """
        if self.world == 1:
            return self
        return replace(self, device=torch.device("cpu"), group=dist.new_group(backend="gloo"))


def alone(device: torch.device) -> Ranks:
    """One process, whatever started it."""
    return Ranks(rank=0, world=1, device=device)


@contextmanager
def ranks(device: torch.device, sharded: bool = False) -> Iterator[Ranks]:
    """The processes that torchrun started (WORLD_SIZE, RANK, LOCAL_RANK): NCCL on CUDA, gloo on a
    CPU. One process has a group of its own only where its model is to be ``sharded`` all the same.

    Raises: UserError where another process ends while this one waits for it.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 and not sharded:
        yield alone(device)
        return
    if device.type == "cuda" and world > 1:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    ours = not dist.is_initialized()
    if ours:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if world > 1:
            dist.init_process_group(backend, timeout=PATIENCE)
        else:
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield Ranks(rank=dist.get_rank(), world=world, device=device)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LOST):
            raise
        raise lost_process(str(error)) from error
    finally:
        if ours:
            dist.destroy_process_group()


_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "gloo",
    "NCCL",
    "Timed out",
)


def lost_process(got: str) -> UserError:
    """What to say when another process of the run has ended or stopped answering."""
    return UserError(
        "Another process of this run has ended or no longer answers.",
        got=got.strip().splitlines()[0][:200],
        allowed="all processes that torchrun started, until the command is done",
        next=(
            "Look for that process's own error above (out of memory is common). The same command"
            " continues from the last training checkpoint."
        ),
    )
