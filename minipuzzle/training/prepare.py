"""What a model is set to before it is trained: the precision of its products, and what its blocks
keep for backward.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial
from typing import cast

import torch

from minipuzzle.arch import Architecture
from minipuzzle.machine import available_bytes, free_gpu_bytes
from minipuzzle.memory import Peak
from minipuzzle.memory.training import HELD_BACK, LOADED, RESERVE, offloaded_peak, training_peak
from minipuzzle.model import HybridLM, reshard, set_precision
from minipuzzle.model.base import ResidualBlock
from minipuzzle.settings import Training
from minipuzzle.settings.training import named_kinds
from minipuzzle.training.optimizers import narrow
from minipuzzle.units import bytes_

NONE = frozenset[str]()
Served = Callable[[], AbstractContextManager[None]]
"""Within it a model has other weights than those that are trained, such as rounded ones."""
SAFE = 0.9
"""Of the memory that is free: fragmentation and what the estimate does not see take the rest."""


def prepare(
    model: HybridLM,
    settings: Training,
    tokens: int,
    ranks: int = 1,
    teacher: Architecture | None = None,
    twice: bool = False,
) -> str:
    """Set dtypes of weights, precision and activation checkpointing for steps of ``tokens`` tokens
    at once on each of ``ranks`` devices; a line that says what was chosen. ``twice``: within a step
    the weights are there besides as they are served.

    Raises: UserError where the precision cannot be had (``set_precision``).
    """
    reshard(model)  # an optimiser holds shards, whatever ran forward before
    narrow(model, settings)
    layers = set_precision(model, settings.precision, settings.bf16_ends)
    wanted, device = settings.activation_checkpointing, model.device
    every = frozenset(model.architecture.kinds)
    model.recomputed = every if wanted == "on" else every & named_kinds(wanted)
    parts = [f"{len(layers)} linear layers in {settings.precision}"] if layers else []
    if device.type == "cuda":
        # What is loaded is no longer free, and neither is CUDA's context.
        there = (*LOADED, RESERVE)
        free = free_gpu_bytes(device)
        peak = partial(step_peak, model, settings, tokens, ranks, teacher, twice=twice)
        chosen = peak(recomputed=model.recomputed)
        if wanted == "auto" and chosen.without(there).total > SAFE * free:
            model.recomputed = every
            chosen = peak(recomputed=every)
        missing = chosen.without(there).total
        total = torch.cuda.memory_allocated(device) + missing + HELD_BACK
        parts.append(
            f"{bytes_(total)} on each GPU (estimate), {bytes_(missing)} of them beside what"
            f" is loaded, {bytes_(free)} are free"
        )
        if missing > free:
            parts.append(
                "it may run out: lower training.micro_batch, training.batch or data.length, or use"
                " more GPUs with torchrun"
            )
    if settings.offload:
        held = offloaded_peak(
            model.architecture, ranks // settings.replicas, averaged=settings.average > 0
        )
        parts.append(
            f"{bytes_(held.total)} of CPU memory for each process (estimate), of which"
            f" {bytes_(held.without(LOADED).total)} are not there yet; {bytes_(available_bytes())}"
            f" are free for all of this machine; {torch.get_num_threads()} threads step"
            " (OMP_NUM_THREADS)"
        )
    if model.recomputed:
        parts.append(f"activation checkpointing ({wanted})")
    return "; ".join(parts)


def step_peak(
    model: HybridLM,
    settings: Training,
    tokens: int,
    ranks: int = 1,
    teacher: Architecture | None = None,
    *,
    recomputed: Collection[str],
    twice: bool = False,
) -> Peak:
    """What a step holds on each device: ``memory.training_peak`` of this model."""
    adapted = hasattr(model, "adapters")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return training_peak(
        model.architecture,
        tokens,
        teacher=teacher,
        gpus=ranks // settings.replicas,
        recomputed=recomputed,
        trained=trained if adapted else None,
        optimizer=settings.optimizer,
        averaged=settings.average > 0,
        accumulates=0 < settings.micro_batch * ranks < settings.batch * settings.context_parallel,
        context_parallel=settings.context_parallel,
        expert_parallel=settings.expert_parallel,
        twice=twice,
        offload=settings.offload,
        stacks=any(cast(ResidualBlock, block).stacks_adapted for block in model.blocks),
    )


def unprepare(model: HybridLM) -> None:
    """A model as one uses it: in eval mode, its products in BF16 or FP32, nothing computed
    twice.
    """
    set_precision(model.eval(), "bf16", 0)
    model.zero_grad(set_to_none=True)
    for parameter in model.parameters():
        if parameter.grad_dtype not in (None, parameter.dtype):  # of ``adamw.keep_copies``
            parameter.grad_dtype = parameter.dtype
    model.recomputed = NONE
