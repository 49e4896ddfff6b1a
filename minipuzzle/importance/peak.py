"""What a scoring will hold in memory, before it begins: printed, and refused where it cannot fit.

The formula is ``minipuzzle.memory.scoring``; here are its numbers that only torch knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod

import numpy as np
import torch

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.reader import PIECE_BYTES
from minipuzzle.importance.bits import measured_formats
from minipuzzle.importance.collect import footprint_hooks
from minipuzzle.importance.curves import narrowings, variants
from minipuzzle.importance.ends import CHUNK_VALUES
from minipuzzle.importance.metrics import find
from minipuzzle.importance.state import PIECE_ROWS_BYTES
from minipuzzle.kinds import Block, Width
from minipuzzle.machine import free_bytes, resident_bytes
from minipuzzle.memory import Need, check_fit, takes
from minipuzzle.memory.scoring import ScoringLoad, on_cpu, on_gpu, rows_that_fit
from minipuzzle.model.base import ResidualBlock
from minipuzzle.model.footprint import forward_bytes
from minipuzzle.model.prefetch import held_dtype
from minipuzzle.ranks import Ranks
from minipuzzle.settings import ScoreSettings
from minipuzzle.units import GIB

LARGE_BLOCK = GIB
FP32_BYTES = 4
ROUNDED = 6
"""Tensors of a matrix's size that compressed-tensors holds while it rounds one."""


@dataclass(frozen=True, kw_only=True)
class ScoringPeak:
    """The ``needs`` on the computing device, and in CPU memory where that is another; the ``load``
    they are of, and the ``dtype`` of computing with its reason.
    """

    needs: tuple[Need, ...]
    load: ScoringLoad
    dtype: torch.dtype
    reason: str

    def __str__(self) -> str:
        dtype, passes = str(self.dtype).removeprefix("torch."), len(self.load.passes)
        often = f"; reads the weights {passes} times" if passes > 1 else ""
        return f"{takes('score', self.needs)} (computes in {dtype}: {self.reason}{often})"

    def check(self) -> None:
        """Raises: UserError where the device's or the CPU's memory is too small."""
        check_fit(
            "Scoring",
            self.needs,
            next=(
                "Lower score.batch or data.length, turn the damage curves off (score.curves), or"
                " score experts otherwise (score.experts)."
            ),
        )


def compute_dtype(checkpoint: Checkpoint, device: torch.device) -> tuple[torch.dtype, str]:
    """(the dtype of weights and activations while scoring, why).

    BF16 on CUDA. On a CPU FP32, unless the checkpoint is in BF16 and its largest block in FP32
    takes over 1 GiB.
    """
    if device.type == "cuda":
        return torch.bfloat16, "CUDA"
    largest = max(
        (block_bytes(block, torch.float32) for block in checkpoint.architecture.blocks), default=0
    )
    if checkpoint.dtype == "BF16" and largest > LARGE_BLOCK:
        return torch.bfloat16, "blocks over 1 GiB in FP32"
    return torch.float32, "CPU"


def block_bytes(block: Block, dtype: torch.dtype) -> int:
    """The bytes of a block's weights when it computes in ``dtype``."""
    return sum(
        prod(w.shape(block.sizes)) * held_dtype(w.name, len(w.dims), dtype).itemsize
        for w in block.weights
    )


def plan_peak(
    checkpoint: Checkpoint,
    settings: ScoreSettings,
    *,
    samples: int,
    shared: int,
    length: int,
    group: Ranks,
    fast: bool,
) -> ScoringPeak:
    """The peak of scoring ``samples`` samples, ``shared`` of them in variants, in the process that
    has most of them. ``fast``: with mamba-ssm's kernels.

    The activations take what ``settings`` allow, or less where that does not fit: the same in all
    processes.
    """
    device = group.device
    architecture, (dtype, reason) = checkpoint.architecture, compute_dtype(checkpoint, device)
    blocks, head = architecture.blocks, 0
    working = {b: _working(b, settings, length, dtype, fast) for b in dict.fromkeys(blocks)}
    formats = measured_formats(checkpoint, settings)
    if any(formats):
        working = {b: most + rounding_bytes(b, dtype) for b, most in working.items()}
    if find(settings.metric).logits:  # a CPU multiplies with FP32 logits in FP32
        itemsize = dtype.itemsize if device.type == "cuda" else FP32_BYTES
        head = architecture.vocab_size * architecture.hidden * itemsize
    load = ScoringLoad(
        weights=tuple(block_bytes(block, dtype) for block in blocks),
        working=tuple(working[block] for block in blocks),
        variants=tuple(
            len(variants(architecture, i, settings.curves, settings.experts, formats[i]))
            for i in range(len(blocks))
        ),
        samples=samples,
        shared=shared,
        row=length * architecture.hidden * dtype.itemsize,
        batch=settings.batch,
        rows=0,
        head=head,
        keeps_end=settings.iterative > 1,
        piece=PIECE_BYTES,
        chunk=FP32_BYTES * CHUNK_VALUES,
        saved=PIECE_ROWS_BYTES,
    )
    free, process = free_bytes(device), resident_bytes()
    rows = rows_that_fit(
        load,
        limit=int(settings.activations * GIB),
        free=free,
        process=process,
        gpu=device.type == "cuda",
    )
    load = replace(load, rows=int(group.least(rows)))
    needs: tuple[Need, ...]
    if device.type == "cpu":
        needs = (Need(where="CPU", peak=on_cpu(load, process), free=free),)
    else:
        peak, host = on_gpu(load, process)
        needs = (
            Need(where="GPU", peak=peak, free=free),
            Need(where="CPU", peak=host, free=free_bytes(torch.device("cpu"))),
        )
    return ScoringPeak(needs=needs, load=load, dtype=dtype, reason=reason)


def rounding_bytes(block: Block, dtype: torch.dtype) -> int:
    """Bytes of a block's matrices once more, and of rounding the largest of them in FP32."""
    sizes = [prod(block.weight(name).shape(block.sizes)) for name in block.matrices]
    return 2 * sum(sizes) * dtype.itemsize + ROUNDED * FP32_BYTES * max(sizes, default=0)


@lru_cache(256)
def _working(
    block: Block, settings: ScoreSettings, length: int, dtype: torch.dtype, fast: bool
) -> int:
    def masked(width: Width, size: int, module: ResidualBlock) -> None:
        kept = width.keep(block, np.ones(width.score_shape(block)), size)
        for owner, name, mask in module.masks(kept):
            setattr(owner, name, mask)

    largest = dict(narrowings(block)) if settings.curves else {}
    watches = [footprint_hooks(block, settings.estimator, settings.experts)]
    watches += [
        partial(masked, width, largest[width.axis])
        for width in block.searched
        if width.axis in largest
    ]
    return max(
        forward_bytes(
            block, batch=settings.batch, length=length, dtype=dtype, fast=fast, watch=watch
        )
        for watch in watches
    )
