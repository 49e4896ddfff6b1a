"""Every budget as a sum over blocks: what a solver needs, and what a local search checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.cost.files import Files
from minipuzzle.cost.latency import Timing
from minipuzzle.kinds import Block
from minipuzzle.memory.footprint import Workload, part_bytes, values
from minipuzzle.settings import Limits


@dataclass(frozen=True, kw_only=True)
class Pricing:
    """One column for each limit: ``names`` and ``limits`` [m], ``base`` [m] for what is no block
    (embedding, norm, head).

    Limits of time keep the timing's margin free: a sum of blocks is not quite the model's time.
    With ``files`` weights take what these say at a number of bits, by default the most.
    """

    parent: Architecture
    workload: Workload
    timing: Timing | None
    requested: Limits
    names: tuple[str, ...]
    limits: NDArray[np.float64]
    base: NDArray[np.float64]
    files: Files | None = None

    def of(self, block: Block, bits: int | None = None) -> NDArray[np.float64]:
        """[m]: what the block adds to each limited cost."""
        alone = replace(self.parent, blocks=(block,))
        sizes = _sizes(alone, self.requested, self.workload, self.files, bits)
        times = (
            []
            if self.timing is None
            else [self.timing.ms(block, t.phase, t.work, self.parent) for t in self.requested.times]
        )
        return np.concatenate([sizes - self.base[: len(sizes)], times])

    def at_hidden(self, hidden: int) -> Pricing:
        """The prices under the same limits where the parent has another hidden size."""
        parent = self.parent.at_hidden(hidden)
        return pricing(parent, self.requested, self.workload, self.timing, self.files)

    def memory(self, architecture: Architecture, bits: Sequence[int] = ()) -> int:
        """Bytes of an architecture at the workload, ``bits[i]`` of its block i."""
        return memory(architecture, self.workload, self.files, bits or None)

    def total(self, architecture: Architecture) -> NDArray[np.float64]:
        """[m]: an architecture's cost under each limit."""
        result: NDArray[np.float64] = sum(
            (self.of(block) for block in architecture.blocks), self.base
        )
        return result


def pricing(
    parent: Architecture,
    limits: Limits,
    workload: Workload,
    timing: Timing | None = None,
    files: Files | None = None,
) -> Pricing:
    """The prices of a parent's blocks under the limits that are set; time limits need a
    ``timing``.
    """
    named = {"parameters": limits.parameters, "active": limits.active, "memory": limits.bytes}
    names = [name for name, limit in named.items() if limit is not None]
    free = 1.0 if timing is None else 1 / (1 + timing.margin)
    bounds = [float(named[name] or 0) for name in names] + [t.ms * free for t in limits.times]
    base = _sizes(replace(parent, blocks=()), limits, workload, files)
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
        files=files,
    )


def memory(
    architecture: Architecture,
    workload: Workload,
    files: Files | None,
    bits: int | Sequence[int] | None = None,
) -> int:
    """Bytes at a workload: weights as ``files`` has them, else ``workload.weights`` a value, and
    the caches.
    """
    sizes = part_bytes(np.asarray(values(architecture, workload.context)), workload)
    if files is not None:
        chosen = files.widest if bits is None else bits
        sizes[0] = files.bytes(architecture, chosen, workload.kv)
    return int(sizes.sum())


def _sizes(
    architecture: Architecture,
    limits: Limits,
    workload: Workload,
    files: Files | None,
    bits: int | None = None,
) -> NDArray[np.float64]:
    parameters = [] if limits.parameters is None else [float(architecture.parameters)]
    active = [] if limits.active is None else [float(architecture.active_parameters)]
    bounded = limits.bytes is not None
    size = [float(memory(architecture, workload, files, bits))] if bounded else []
    return np.array(parameters + active + size)
