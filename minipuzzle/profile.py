"""Times of blocks, measured inside a running model, so that their sum is the model's time.

Each block is timed between its neighbours, where caches and launches are as in use. Whole models
are timed in the same rounds, so that their difference from the sums is the sums' fault and not the
machine's drift.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from minipuzzle.arch import Architecture
from minipuzzle.arch.narrow import resized
from minipuzzle.cost.latency import LatencyTable, describe, model_ms, surroundings, varied
from minipuzzle.kinds import Block
from minipuzzle.machine import memory_of
from minipuzzle.progress import SILENT, Progress
from minipuzzle.settings import Generation, Phase
from minipuzzle.timing import PHASES, Machine, time_in_turns

MEMORY_SHARE = 0.6
SMALLEST = 0.125
"""The share of its width at which a block is timed last."""


def profile(
    parent: Architecture,
    works: Sequence[Generation],
    machine: Machine,
    *,
    widths: int,
    phases: Sequence[Phase] = PHASES,
    checked: Sequence[Architecture] = (),
    progress: Progress = SILENT,
) -> LatencyTable:
    """A table of every distinct block of ``parent``, each of its axes at ``widths`` sizes from
    whole to an eighth, for each workload.

    Its meta has a row of ``additivity`` for each of the whole models ``checked`` (the parent
    first), workload and phase. Raises: UserError for a workload that does not fit the device.
    """
    chains = [chain(parent, place, shrink, machine) for place, shrink in forms(parent, widths)]
    times = time_in_turns(
        [*chains, *checked], works, machine, marked=len(chains), phases=phases, progress=progress
    )
    seen: dict[tuple[str, int, int, str], list[float]] = {}
    for architecture, phased in zip(chains, times, strict=False):
        for (work, phase), (before, *blocks, after) in phased.items():
            key = (phase, work.batch, work.prompt if phase == "prefill" else work.context)
            by_shape: dict[str, list[float]] = {}
            for block, ms in zip(architecture.blocks, blocks, strict=True):
                by_shape.setdefault(describe(block), []).append(ms)
            for text, values in by_shape.items():
                seen.setdefault((*key, text), []).append(statistics.fmean(values))
            seen.setdefault((*key, surroundings(parent)), []).append(before + after)
    meta: dict[str, Any] = {
        "device": machine.name,
        "dtype": str(machine.dtype).removeprefix("torch."),
        "kernels": machine.kernels.reason,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "workloads": [str(w) for w in works],
    }
    table = LatencyTable(
        meta=meta, entries={key: statistics.median(values) for key, values in seen.items()}
    )
    meta["additivity"] = additivity(table, checked, times[len(chains) :])
    meta["worst_additivity_error"] = max(
        (abs(row["error"]) for row in meta["additivity"]), default=None
    )
    return table


def additivity(
    table: LatencyTable,
    architectures: Sequence[Architecture],
    times: Sequence[dict[tuple[Generation, Phase], list[float]]],
) -> list[dict[str, Any]]:
    """Sums of blocks against whole models, in ms and as speed-up over the first of them: a row for
    each architecture, workload and phase.
    """
    rows = []
    for architecture, measured in zip(architectures, times, strict=True):
        active = architecture.active_if_fewer
        for (work, phase), (took,) in measured.items():
            predicted, first = (
                model_ms(table, a, phase, work) for a in (architecture, architectures[0])
            )
            speedup, expected = times[0][work, phase][0] / took, first / predicted
            rows.append(
                {
                    "pattern": architecture.pattern,
                    "parameters": architecture.parameters,
                    **({} if active is None else {"active": active}),
                    "phase": phase,
                    "workload": str(work),
                    "predicted_ms": predicted,
                    "measured_ms": took,
                    "error": predicted / took - 1,
                    "predicted_speedup": expected,
                    "measured_speedup": speedup,
                    "speedup_error": expected / speedup - 1,
                }
            )
    return rows


def forms(parent: Architecture, widths: int) -> list[tuple[int, float]]:
    """The models that are timed: (which axis of each block is smaller, how far down to an eighth),
    the whole first.
    """
    axes = max((len(varied(block)) for block in parent.blocks), default=0)
    shares = [size / max(1, widths - 1) for size in range(1, widths)]
    return [(0, 0.0), *((place, shrink) for place in range(max(1, axes)) for shrink in shares)]


def chain(parent: Architecture, place: int, shrink: float, machine: Machine) -> Architecture:
    """The model to time blocks in: the parent with an axis of each block ``shrink`` of the way down
    to an eighth.

    A parent too large for the device is stood for by one block of each shape.
    """
    blocks = list(parent.blocks)
    if parent.parameters * machine.dtype.itemsize > MEMORY_SHARE * memory_of(machine.device):
        blocks = list(dict.fromkeys(blocks))
    return replace(parent, blocks=tuple(_shrunk(block, place, shrink) for block in blocks))


def _shrunk(block: Block, place: int, shrink: float) -> Block:
    """The block with one of the axes that tables vary ``shrink`` of the way down to an eighth, or
    to the least size that goes with the others, which are whole; as it is where it has no such
    axis.
    """
    widths = varied(block)
    if place >= len(widths):
        return block
    width = widths[place]
    sizes = width.candidate_sizes(block, 0.0, 1)
    good = [n for n in sizes if resized(block, {width.axis: n}).fault() is None]
    smallest = SMALLEST if good == list(sizes) else max(SMALLEST, good[0] / sizes[-1])
    size = width.nearest(block, 1 - (1 - smallest) * shrink, smallest)
    return resized(block, {width.axis: size})
