"""Every budget as a sum over blocks: what a solver needs, and what a local search checks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.cost.latency import Timing
from minipuzzle.kinds import Block
from minipuzzle.memory.footprint import Workload, part_bytes, values
from minipuzzle.settings import Limits


@dataclass(frozen=True, kw_only=True)
class Pricing:
    """One column for each limit: ``names`` and ``limits`` [m], ``base`` [m] for what is no block
    (embedding, norm, head).

    Limits of time keep the timing's margin free: a sum of blocks is not quite the model's time.
    """

    parent: Architecture
    workload: Workload
    timing: Timing | None
    requested: Limits
    names: tuple[str, ...]
    limits: NDArray[np.float64]
    base: NDArray[np.float64]

    def of(self, block: Block) -> NDArray[np.float64]:
        """[m]: what the block adds to each limited cost."""
        sizes = _sizes(replace(self.parent, blocks=(block,)), self.requested, self.workload)
        times = (
            []
            if self.timing is None
            else [self.timing.ms(block, t.phase, t.work, self.parent) for t in self.requested.times]
        )
        return np.concatenate([sizes - self.base[: len(sizes)], times])

    def at_hidden(self, hidden: int) -> Pricing:
        """The prices under the same limits where the parent has another hidden size."""
        return pricing(self.parent.at_hidden(hidden), self.requested, self.workload, self.timing)

    def total(self, architecture: Architecture) -> NDArray[np.float64]:
        """[m]: an architecture's cost under each limit."""
        result: NDArray[np.float64] = sum(
            (self.of(block) for block in architecture.blocks), self.base
        )
        return result


def pricing(
    parent: Architecture, limits: Limits, workload: Workload, timing: Timing | None = None
) -> Pricing:
    """The prices of a parent's blocks under the limits that are set; time limits need a
    ``timing``.
    """
    named = {"parameters": limits.parameters, "active": limits.active, "memory": limits.bytes}
    names = [name for name, limit in named.items() if limit is not None]
    free = 1.0 if timing is None else 1 / (1 + timing.margin)
    bounds = [float(named[name] or 0) for name in names] + [t.ms * free for t in limits.times]
    base = _sizes(replace(parent, blocks=()), limits, workload)
    times = (
        [] if timing is None else [timing.ms(None, t.phase, t.work, parent) for t in limits.times]
    )
    return Pricing(
        parent=parent,
        workload=workload,
        timing=timing,
        requested=limits,
        names=(*names, *(t.name for t in limits.times)),
        limits=np.array(bounds),
        base=np.concatenate([base, times]),
    )


def _sizes(architecture: Architecture, limits: Limits, workload: Workload) -> NDArray[np.float64]:
    counts = np.asarray(values(architecture, workload.context))
    parameters = [] if limits.parameters is None else [float(counts[0])]
    active = [] if limits.active is None else [float(architecture.active_parameters)]
    size = [] if limits.bytes is None else [float(part_bytes(counts, workload).sum())]
    return np.array(parameters + active + size)
