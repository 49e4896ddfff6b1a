"""What a model is set to before it is trained: the precision of its products, what its blocks keep
for backward, and what of it stays gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import cast

import torch

from minipuzzle.arch import Architecture
from minipuzzle.machine import available_bytes, free_gpu_bytes
from minipuzzle.memory import Peak
from minipuzzle.memory.division import Division, divide, fits
from minipuzzle.memory.training import (
    BF16,
    HELD_BACK,
    LOADED,
    RESERVE,
    offloaded_peak,
    training_peak,
)
from minipuzzle.model import HybridLM, gather_once, in_shards, reshard, set_precision
from minipuzzle.model.base import ResidualBlock
from minipuzzle.ranks import Ranks, alone
from minipuzzle.settings import Training
from minipuzzle.settings.training import named_kinds
from minipuzzle.training.optimizers import narrow
from minipuzzle.units import bytes_

NONE = frozenset[str]()
Served = Callable[[], AbstractContextManager[None]]
"""Within it a model has other weights than those that are trained, such as rounded ones."""


def prepare(
    model: HybridLM,
    settings: Training,
    tokens: int,
    ranks: Ranks | None = None,
    teacher: HybridLM | None = None,
    twice: bool = False,
) -> str:
    """Set dtypes of weights, precision, activation checkpointing and what stays gathered for steps
    of ``tokens`` tokens at once on each of the ``ranks``' devices; a line that says what was
    chosen. ``twice``: within a step the weights are there besides as they are served.

    All processes choose alike. Raises: UserError where the precision cannot be had
    (``set_precision``).
    """
    reshard(model)  # an optimiser holds shards, whatever ran forward before
    narrow(model, settings)
    layers = set_precision(model, settings.precision, settings.bf16_ends)
    ranks = ranks or alone(model.device)
    model.recomputed, every = _named(model, settings)
    chosen = division_of(model, teacher)
    parts = [f"{len(layers)} linear layers in {settings.precision}"] if layers else []
    free = free_for_each(ranks)
    if free is not None:
        shape = None if teacher is None else teacher.architecture

        def peak(division: Division) -> Peak:
            how = settings, tokens, ranks.world, shape
            return step_peak(model, *how, division=division, twice=twice)

        chosen = divide(
            lambda division: fits(peak(division), free, loaded=True),
            chosen,
            every=every,
            gathered=in_shards(model) and _spares(settings, ranks),
        )
        # What is loaded is no longer free, and neither is CUDA's context.
        missing = peak(chosen).without((*LOADED, RESERVE)).total
        total = torch.cuda.memory_allocated(model.device) + missing + HELD_BACK
        parts.append(
            f"{bytes_(total)} on each GPU (estimate), {bytes_(missing)} of them beside what"
            f" is loaded, {bytes_(free)} are free"
        )
        if missing > free:
            parts.append(
                "it may run out: lower training.micro_batch, training.batch or data.length, or use"
                " more GPUs with torchrun"
            )
        if in_shards(model):
            where = "whole on each" if chosen.whole_teacher else "in shards"
            taught = f"the teacher {where}, " if shape else ""
            parts.append(f"{taught}the student gathered {'once' if chosen.gathered else 'twice'}")
    model.recomputed = chosen.recomputed
    gather_once(model, chosen.gathered)
    if settings.offload:
        held = offloaded_peak(
            model.architecture, ranks.world // settings.replicas, averaged=settings.average > 0
        )
        parts.append(
            f"{bytes_(held.total)} of CPU memory for each process (estimate), of which"
            f" {bytes_(held.without(LOADED).total)} are not there yet; {bytes_(available_bytes())}"
            f" are free for all of this machine; {torch.get_num_threads()} threads step"
            " (OMP_NUM_THREADS)"
        )
    if model.recomputed:
        parts.append(f"activation checkpointing ({settings.activation_checkpointing})")
    return "; ".join(parts)


def holds_teacher(
    students: Sequence[HybridLM],
    teacher: Architecture,
    settings: Training,
    tokens: int,
    ranks: Ranks,
    teacher_ends: int | None = None,
    besides: int = 0,
) -> bool:
    """Whether each of several processes is to hold a ``teacher``, which is not loaded yet, whole:
    where that fits beside any of the ``students`` (they may be on "meta") in its step and
    ``besides`` bytes. Else it is in shards over them. All of them choose alike.
    """
    free = free_for_each(ranks)
    if free is None:
        return False
    free -= besides
    # its matrices are BF16 until all are there, whatever is made of them then
    may = settings.expert_parallel == 1 and BF16 * teacher.parameters < free
    may = may and _spares(settings, ranks)

    def chosen(student: HybridLM) -> Division:
        named, every = _named(student, settings)
        how = settings, tokens, ranks.world, teacher

        def fitting(division: Division) -> bool:
            peak = step_peak(student, *how, division=division, teacher_ends=teacher_ends)
            return fits(peak, free, loaded=False)

        return divide(fitting, Division(recomputed=named), every=every, whole_teacher=may)

    return all(chosen(student).whole_teacher for student in students)


def free_for_each(ranks: Ranks) -> float | None:
    """Bytes that are free on the GPU that has the fewest of them; None on a CPU, for which no step
    is estimated.
    """
    if ranks.device.type != "cuda":
        return None
    return ranks.least(free_gpu_bytes(ranks.device))


def _named(model: HybridLM, settings: Training) -> tuple[frozenset[str], frozenset[str] | None]:
    """(kinds that the settings have recomputed, all that may be where they leave it open)."""
    wanted, every = settings.activation_checkpointing, frozenset(model.architecture.kinds)
    named = every if wanted == "on" else every & named_kinds(wanted)
    return named, every if wanted == "auto" else None


def _spares(settings: Training, ranks: Ranks) -> bool:
    """Whether memory may be given for fewer gathers: not where weights come from the CPU for want
    of it.
    """
    return ranks.world > settings.replicas and not settings.offload


def division_of(model: HybridLM, teacher: HybridLM | None) -> Division:
    """As a model is prepared beside a teacher."""
    whole = teacher is not None and not in_shards(teacher)
    return Division(recomputed=model.recomputed, whole_teacher=whole, gathered=model.gathered)


def step_peak(
    model: HybridLM,
    settings: Training,
    tokens: int,
    ranks: int = 1,
    teacher: Architecture | None = None,
    *,
    division: Division,
    twice: bool = False,
    teacher_ends: int | None = None,
) -> Peak:
    """What a step holds on each device: ``memory.training_peak`` of this model."""
    adapted = hasattr(model, "adapters")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return training_peak(
        model.architecture,
        tokens,
        teacher=teacher,
        teacher_ends=teacher_ends,
        gpus=ranks // settings.replicas,
        recomputed=division.recomputed,
        whole_teacher=division.whole_teacher,
        gathered=division.gathered,
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
    gather_once(model, False)
