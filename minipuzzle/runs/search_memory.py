"""What a search will hold in memory, before it begins: printed, and refused where it cannot fit.

The formula is ``minipuzzle.memory.searching``; here are its numbers that only torch knows.
"""

from __future__ import annotations

import logging
from math import prod

import torch

from minipuzzle.checkpoint.reader import PIECE_BYTES
from minipuzzle.data import TokenBlocks
from minipuzzle.errors import UserError
from minipuzzle.importance.peak import rounding_bytes
from minipuzzle.kinds import Block
from minipuzzle.machine import free_bytes, resident_bytes
from minipuzzle.memory import Need, check_fit, takes
from minipuzzle.memory.scoring import HEADROOM
from minipuzzle.memory.searching import SearchLoad, rows_that_fit, search_peak, streamed_peak
from minipuzzle.metrics import CHUNK_TOKENS
from minipuzzle.model.branches import forks_held
from minipuzzle.model.footprint import forward_bytes
from minipuzzle.model.load import frozen_dtype
from minipuzzle.nas.rank import TOGETHER
from minipuzzle.runs.job import Job
from minipuzzle.runs.parent import BATCH
from minipuzzle.settings import SearchSettings
from minipuzzle.units import GIB, bytes_

log = logging.getLogger(__name__)
FP32 = 4


def choose_rows(job: Job, blocks: TokenBlocks, settings: SearchSettings) -> int | None:
    """None where one process holds the parent to measure candidates on ``blocks``; else it reads
    the parent block by block, with hidden states of so many blocks of text (``StreamedLM``). Says
    which it is, and what it takes.

    It is held wherever it fits. Raises: UserError where the device's memory is too small for
    either, or for the tasks that are asked.
    """
    process = resident_bytes() if job.device.type == "cpu" else None
    where, free = "GPU" if process is None else "CPU", free_bytes(job.device)
    load = load_of(job, blocks, settings)
    whole = search_peak(load, process)
    if whole.total <= free * (1 - HEADROOM):
        log.info(takes("search", [Need(where=where, peak=whole, free=free)]))
        return None
    rows = rows_that_fit(load, free, process)
    needs = [Need(where=where, peak=streamed_peak(load, rows, process), free=free)]
    if settings.by_tasks:
        raise UserError(
            "Candidates answer questions only where the parent fits in memory.",
            got=f"search.by_tasks {settings.by_tasks}; {whole}",
            allowed=f"{bytes_(free)} of {where} memory",
            next="Leave search.by_tasks out, or search in several processes (torchrun).",
        )
    often = -(-len(blocks) // rows)
    log.info(
        f"{takes('search', needs)} (with the whole parent {whole.total / GIB:.2f}: its blocks are"
        f" read {often} times for each {load.together} candidates)"
    )
    check_fit(
        "Searching",
        needs,
        next=(
            "Lower search.validation_blocks or data.length, or search in several processes"
            " (torchrun)."
        ),
    )
    return rows * load.together


def load_of(job: Job, blocks: TokenBlocks, settings: SearchSettings) -> SearchLoad:
    """What is held of the parent (matrices BF16 on CUDA, the rest FP32), and computed with it."""
    architecture, dtype = job.parent.architecture, frozen_dtype(job.device)
    matrices, length, kinds = architecture.matrices, blocks.block_length, architecture.blocks
    sizes = {
        t.name: prod(t.shape) * (dtype.itemsize if t.name in matrices else FP32)
        for t in architecture.tensors()
    }
    of_blocks = [
        sum(sizes[f"blocks.{i}.{w.name}"] for w in block.weights) for i, block in enumerate(kinds)
    ]
    rounds, batch = bool(settings.formats), min(BATCH, len(blocks))
    # the solver's own, and the largest, are measured besides
    together = TOGETHER if settings.method == "solver" else min(TOGETHER, settings.candidates)
    return SearchLoad(
        weights=sum(sizes.values()),
        blocks=tuple(of_blocks),
        head=architecture.vocab_size * architecture.hidden * dtype.itemsize,
        rows=len(blocks),
        row=length * architecture.hidden * dtype.itemsize,
        batch=batch,
        together=together,
        waiting=forks_held(together),
        working=max(_working(job, block, length, dtype) for block in dict.fromkeys(kinds)),
        chunk=min(CHUNK_TOKENS, batch * (length - 1)) * architecture.vocab_size * FP32,
        piece=PIECE_BYTES,
        rounded=rounds * sum(size for name, size in sizes.items() if name in matrices),
        rounding=rounds * max(rounding_bytes(block, dtype) for block in kinds),
    )


def _working(job: Job, block: Block, length: int, dtype: torch.dtype) -> int:
    fast = job.kernels.name == "mamba-ssm"
    return forward_bytes(block, batch=BATCH, length=length, dtype=dtype, fast=fast)
