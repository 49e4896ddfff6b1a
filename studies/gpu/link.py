"""GB a second that a GPU sends in an all-gather and in a sum to shards: what ``distill --plan
--links`` wants.

    torchrun --nproc-per-node 2 studies/gpu/link.py cuda OUT.json

The first process writes, by MiB of a process's part: GB (1e9 bytes) a second of each operation.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from minipuzzle.ranks import ranks

PARTS = {"cuda": (16, 64, 256), "cpu": (1,)}
"""MiB: those of a block of the 4B and the 8B lie between, BF16 on two GPUs."""
TIMES = 20


def main() -> None:
    """Time the operations at each size."""
    device, out = sys.argv[1], Path(sys.argv[2])
    with ranks(torch.device(device)) as group:
        rows = {mib: row(mib << 20, group.world, device) for mib in PARTS[device]}
        if group.rank == 0:
            out.write_text(json.dumps(rows, indent=1) + "\n")
            print(rows)


def row(part: int, world: int, device: str) -> dict[str, float]:
    """A part of ``part`` bytes, sent to each other process: BF16 gathered, FP32 summed."""
    halves = torch.zeros(part // 2, dtype=torch.bfloat16, device=device)
    gathered = torch.empty(world * halves.numel(), dtype=halves.dtype, device=device)
    sums = torch.zeros(part // 4, device=device)
    whole = torch.zeros(world * sums.numel(), device=device)
    sent = part * (world - 1)
    return {
        "all_gather": sent / timed(lambda: dist.all_gather_into_tensor(gathered, halves)) / 1e9,
        "reduce_scatter": sent / timed(lambda: dist.reduce_scatter_tensor(sums, whole)) / 1e9,
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds of one of TIMES in a row, after three."""
    for _ in range(3):
        work()
    wait()
    began = time.monotonic()
    for _ in range(TIMES):
        work()
    wait()
    return (time.monotonic() - began) / TIMES


def wait() -> None:
    """Until the GPUs of all are done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    dist.barrier()


if __name__ == "__main__":
    main()
