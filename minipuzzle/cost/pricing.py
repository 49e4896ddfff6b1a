"""Every budget as a sum over blocks: what a solver needs, and what a local search checks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture, Block
from minipuzzle.budget import Limits
from minipuzzle.cost.memory import Workload, part_bytes, values


@dataclass(frozen=True, kw_only=True)
class Pricing:
    """One column for each limit: ``names`` and ``limits`` [m], ``base`` [m] for what is no block (embedding, norm, head)."""

    parent: Architecture
    workload: Workload
    names: tuple[str, ...]
    limits: NDArray[np.float64]
    base: NDArray[np.float64]

    def of(self, block: Block) -> NDArray[np.float64]:
        """[m]: what the block adds to each limited cost."""
        return _costs(replace(self.parent, blocks=(block,)), self.names, self.workload) - self.base


def pricing(parent: Architecture, limits: Limits, workload: Workload) -> Pricing:
    """The prices of a parent's blocks under the limits that are set."""
    named = {"parameters": limits.parameters, "memory": limits.bytes}
    names = tuple(name for name, limit in named.items() if limit is not None)
    return Pricing(
        parent=parent, workload=workload, names=names, limits=np.array([float(named[n] or 0) for n in names]),
        base=_costs(replace(parent, blocks=()), names, workload),
    )  # fmt: skip


def _costs(architecture: Architecture, names: tuple[str, ...], workload: Workload) -> NDArray[np.float64]:
    counts = np.asarray(values(architecture))
    known = {"parameters": float(counts[0]), "memory": float(part_bytes(counts, workload).sum())}
    return np.array([known[name] for name in names])
