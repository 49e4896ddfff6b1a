"""A search before it has scores: the space, the limits and what fits. No torch, so a config.json is enough."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.artifacts import Scores
from minipuzzle.budget import Budget, Limits, parse_budget, parse_count
from minipuzzle.cost import Workload, memory
from minipuzzle.cost.pricing import Pricing, pricing
from minipuzzle.errors import UserError
from minipuzzle.recipe import SearchSettings
from minipuzzle.search.enumerate import Feasible, costs, enumerate_shapes, grid, maximal
from minipuzzle.search.select import Candidate, candidates
from minipuzzle.space import Bounds, bounds, check_uniform, levels

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The grid of a parent under a budget, and the points of it that fit."""

    parent: Architecture
    budget: Budget
    limits: Limits
    workload: Workload
    bounds: Bounds
    feasible: Feasible

    @property
    def points(self) -> int:
        """The number of grid points."""
        return self.bounds.points

    @property
    def prices(self) -> Pricing:
        """The budgets as sums over blocks."""
        return pricing(self.parent, self.limits, self.workload)

    def bytes(self, architecture: Architecture) -> int:
        """An architecture's memory at the workload."""
        return memory(architecture, self.workload).total

    def widest(self, settings: SearchSettings) -> Bounds:
        """The sizes that the solver may choose from: those of the last level, since it does not enumerate them."""
        level = levels(settings.least)[-1]
        return bounds(self.parent, level, multiple=settings.multiple, mamba_heads=settings.mamba_heads)

    @cached_property
    def is_maximal(self) -> NDArray[np.bool_]:
        """[n] bool: the feasible points from which no single step up fits."""
        return maximal(self.parent, self.feasible, self.bounds, self.limits, self.workload)

    def candidates(self, scores: Scores, limit: int) -> list[Candidate]:
        """The ``limit`` candidates with the least predicted damage."""
        return candidates(self.parent, scores, self.feasible, self.is_maximal, limit)

    def maximal(self) -> list[dict[str, Any]]:
        """The maximal shapes, largest first, with their costs."""
        rows = [
            {**asdict(self.feasible.shape(int(i))), "parameters": int(self.feasible.parameters[i]),
             "bytes": int(self.feasible.bytes[i])}
            for i in np.flatnonzero(self.is_maximal)
        ]  # fmt: skip
        return sorted(rows, key=lambda row: -row["parameters"])

    def summary(self) -> dict[str, Any]:
        """Budget, bounds and counts, for search.json."""
        return {
            "budget": {
                "text": list(self.budget.text), "parameters": self.limits.parameters, "bytes": self.limits.bytes,
                "workload": asdict(self.workload),
            },
            "bounds": self.bounds.plain(), "points": self.points, "feasible": self.feasible.count,
            "parent_cost": {
                "parameters": self.parent.parameters, "bytes": memory(self.parent, self.workload).total,
            },
        }  # fmt: skip


def make_plan(parent: Architecture, settings: SearchSettings) -> Plan:
    """The plan for a parent.

    Raises: UserError for a malformed budget, one that the parent meets already, or one that no point of the widest
    space meets (says the smallest reachable).
    """
    check_uniform(parent)
    workload = Workload(context=parse_count(settings.context), batch=settings.batch, weights=settings.weights,
                        kv=settings.kv, state=settings.state)  # fmt: skip
    budget = parse_budget(settings.budget)
    limits = budget.resolve(parent.parameters)
    _check_needed(parent, limits, workload, settings)
    for level in levels(settings.least):
        space = bounds(parent, level, multiple=settings.multiple, mamba_heads=settings.mamba_heads)
        feasible = enumerate_shapes(parent, space, limits, workload)
        if feasible.count:
            return Plan(parent=parent, budget=budget, limits=limits, workload=workload, bounds=space, feasible=feasible)
    raise _unreachable(parent, space, limits, workload, settings)


def _check_needed(parent: Architecture, limits: Limits, workload: Workload, settings: SearchSettings) -> None:
    size = memory(parent, workload).total
    small = limits.parameters is None or parent.parameters <= limits.parameters
    if small and (limits.bytes is None or size <= limits.bytes):
        raise UserError(
            "The model meets this budget already: nothing needs pruning.", got=" and ".join(settings.budget),
            allowed=f"less than its {parent.parameters:,} parameters or its {size / GIB:.3f} GiB at this workload",
            next="Give a smaller budget, or use the model as it is.",
        )  # fmt: skip


def _unreachable(
    parent: Architecture, space: Bounds, limits: Limits, workload: Workload, settings: SearchSettings
) -> UserError:
    parameters, size = costs(parent, grid(space), workload)
    smallest = []
    if limits.parameters is not None:
        smallest.append(f"{parameters.min():,} parameters")
    if limits.bytes is not None:
        smallest.append(f"{size.min() / GIB:.3f} GiB")
    heads = "" if settings.mamba_heads else ", or add --mamba-heads to narrow those too"
    return UserError(
        "No architecture in the search space meets this budget.", got=" and ".join(settings.budget),
        allowed=f"at least {' and '.join(smallest)} (the smallest reachable)",
        next=f"Raise the budget{heads}, or widen --least; for memory, a shorter --context or smaller dtypes.",
    )  # fmt: skip
