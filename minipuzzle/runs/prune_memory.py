"""What a cut will hold in memory, before it begins: printed, and refused where it cannot fit.

The formula is ``minipuzzle.memory.pruning``; here are its numbers that only torch knows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch

from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.reader import PIECE_BYTES
from minipuzzle.checkpoint.writer import SHARD_BYTES
from minipuzzle.importance.peak import block_bytes
from minipuzzle.machine import free_bytes, resident_bytes
from minipuzzle.memory import Need, check_fit, takes
from minipuzzle.memory.pruning import PruneLoad, prune_on_cpu, prune_on_gpu
from minipuzzle.model.footprint import forward_bytes
from minipuzzle.surgery import HEAD_NUMBERS

log = logging.getLogger(__name__)
FP32 = 4
CPU = torch.device("cpu")


def check_prune_memory(
    parent: Checkpoint,
    selections: Sequence[Selection],
    tokens: tuple[int, int],
    device: torch.device,
) -> None:
    """Say the peak of cutting ``selections`` out of ``parent``, one after the other, and checking
    each on ``tokens`` (rows, length). Raises: UserError where a memory is too small.
    """
    needs = max(
        (_needs(load_of(parent, selection, tokens), device) for selection in selections),
        key=lambda each: sum(need.peak.total for need in each),
    )
    log.info(takes("prune", needs))
    check_fit(
        "Cutting",
        needs,
        next="Free some of it, or prune on another device (device cpu) or a larger machine.",
    )


def _needs(load: PruneLoad, device: torch.device) -> list[Need]:
    held = resident_bytes()
    if device.type == "cpu":
        return [Need(where="CPU", peak=prune_on_cpu(load, held), free=free_bytes(CPU))]
    gpu, cpu = prune_on_gpu(load, held)
    return [
        Need(where="GPU", peak=gpu, free=free_bytes(device)),
        Need(where="CPU", peak=cpu, free=free_bytes(CPU)),
    ]


def load_of(parent: Checkpoint, selection: Selection, tokens: tuple[int, int]) -> PruneLoad:
    """What is written and compared of one candidate."""
    whole = parent.architecture
    student = selection.student(whole)
    largest = max(prod(t.shape) * parent.held_dtype(t.name).itemsize for t in whole.file_tensors())
    rows = min(whole.vocab_size, max(1, HEAD_NUMBERS // whole.hidden))
    count = prod(tokens)
    return PruneLoad(
        part=min(parent.plain_bytes + parent.copied_bytes, max(SHARD_BYTES, largest)),
        tensor=largest,
        blocks=_neighbours(whole, selection.kept_blocks)
        + _neighbours(student, range(len(student.blocks))),
        working=max(
            forward_bytes(
                whole.blocks[i], batch=tokens[0], length=tokens[1], dtype=torch.float32, fast=False
            )
            for i in _different(whole, selection.kept_blocks)
        ),
        stream=count * whole.hidden * FP32,
        # the logits of both, and their difference
        heads=rows * FP32 * (whole.hidden + student.hidden + 3 * count),
        piece=PIECE_BYTES,
    )


def _neighbours(architecture: Architecture, indices: Sequence[int]) -> int:
    sizes = [block_bytes(architecture.blocks[i], torch.float32) for i in indices]
    return max([sum(pair) for pair in pairwise(sizes)], default=sum(sizes))


def _different(architecture: Architecture, indices: Sequence[int]) -> list[int]:
    """One position of each sort of block among ``indices``."""
    return list({architecture.blocks[i]: i for i in indices}.values())
