"""The processes of one torchrun that share the calibration samples; without torchrun, one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's number among ``world``, and sums over all of them."""

    rank: int
    world: int
    device: torch.device

    def share(self, count: int) -> int:
        """How many of the first ``count`` samples are ours: samples rank, rank + world, ..."""
        return len(range(self.rank, count, self.world))

    def sum(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """The float64 array summed over all processes."""
        if self.world == 1:
            return array
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def least(self, number: float) -> float:
        """The least of all processes' numbers."""
        if self.world == 1:
            return number
        tensor = torch.tensor([number], dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return float(tensor.item())


@contextmanager
def ranks(device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun started (WORLD_SIZE, RANK, LOCAL_RANK): NCCL on CUDA, gloo on a CPU."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(rank=0, world=1, device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(rank=dist.get_rank(), world=world, device=device)
    finally:
        if ours:
            dist.destroy_process_group()
