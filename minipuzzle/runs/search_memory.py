"""What a search will hold in memory, before it begins: printed, and refused where it cannot fit.

The formula is ``minipuzzle.memory.searching``; here are its numbers that only torch knows.
"""

from __future__ import annotations

import logging
from math import prod

import torch

from minipuzzle.checkpoint.reader import PIECE_BYTES
from minipuzzle.data import TokenBlocks
from minipuzzle.machine import free_bytes, resident_bytes
from minipuzzle.memory import Need, Peak, check_fit, takes
from minipuzzle.memory.searching import SearchLoad, search_peak
from minipuzzle.metrics import CHUNK_TOKENS
from minipuzzle.model.branches import forks_held
from minipuzzle.model.footprint import forward_bytes
from minipuzzle.nas.rank import TOGETHER
from minipuzzle.runs.job import Job
from minipuzzle.runs.parent import BATCH

log = logging.getLogger(__name__)
FP32 = 4


def check_memory(job: Job, blocks: TokenBlocks, rounds: bool = False) -> Peak:
    """The peak of measuring candidates on ``blocks`` in one process; says it. ``rounds``: in
    formats of fewer bits. Raises: UserError
    where the device's memory is too small.
    """
    on_cpu = job.device.type == "cpu"
    peak = search_peak(load_of(job, blocks, rounds), resident_bytes() if on_cpu else None)
    where = "CPU" if on_cpu else "GPU"
    needs = [Need(where=where, peak=peak, free=free_bytes(job.device))]
    log.info(takes("search", needs))
    check_fit(
        "Searching",
        needs,
        next=(
            "Lower search.validation_blocks or data.length, or search in several processes"
            " (torchrun)."
        ),
    )
    return peak


def load_of(job: Job, blocks: TokenBlocks, rounds: bool = False) -> SearchLoad:
    """What is held of the parent (matrices BF16 on CUDA, the rest FP32), and computed with it."""
    architecture = job.parent.architecture
    dtype = torch.float32 if job.device.type == "cpu" else torch.bfloat16
    matrices, length = architecture.matrices, blocks.block_length
    row = length * architecture.hidden * dtype.itemsize
    return SearchLoad(
        weights=sum(
            prod(t.shape) * (dtype.itemsize if t.name in matrices else FP32)
            for t in architecture.tensors()
        ),
        rounded=rounds
        * sum(prod(t.shape) for t in architecture.tensors() if t.name in matrices)
        * dtype.itemsize,
        rows=len(blocks) * row,
        batch=BATCH * row,
        waiting=forks_held(TOGETHER),
        working=max(
            forward_bytes(
                block, batch=BATCH, length=length, dtype=dtype, fast=job.kernels.name == "mamba-ssm"
            )
            for block in dict.fromkeys(architecture.blocks)
        ),
        chunk=CHUNK_TOKENS * architecture.vocab_size * FP32,
        piece=PIECE_BYTES,
    )
