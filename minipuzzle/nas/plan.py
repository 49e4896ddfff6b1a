"""A search before it has scores: the space, the limits and what fits. No torch, so a config.json is
enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.cost.files import Files
from minipuzzle.cost.latency import LatencyTable, Timing, model_ms
from minipuzzle.cost.pricing import Pricing, memory, pricing
from minipuzzle.errors import UserError
from minipuzzle.memory import Workload
from minipuzzle.nas.enumerate import Feasible, costs, enumerate_shapes, maximal, times
from minipuzzle.nas.grid import grid
from minipuzzle.nas.select import Candidate, candidates, largest
from minipuzzle.records import Fitting, ParentCost, SearchBudget, SearchSpace
from minipuzzle.scores import Scores
from minipuzzle.settings import Budget, Generation, Limits, Phase, SearchSettings, parse_budget
from minipuzzle.space import (
    Bounds,
    bounds,
    check_asked,
    check_uniform,
    left_out,
    levels,
    switches_left,
)
from minipuzzle.units import sized

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The grid of a parent under a budget, and the points of it that fit. ``notes`` say which
    sizes are left out.
    """

    parent: Architecture
    budget: Budget
    prices: Pricing
    bounds: Bounds
    feasible: Feasible
    notes: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        """The number of grid points."""
        return self.bounds.points

    @property
    def limits(self) -> Limits:
        """The budget in numbers."""
        return self.prices.requested

    def sentences(self) -> list[str]:
        """What budgets of time mean here: the phase, the limit and the workload that it is
        about; and which sizes are left out.
        """
        return list(self.notes) + [
            f"{t.phase} in at most {t.ms:,.1f} ms for {t.work.batch:,} x {t.work.prompt:,} tokens"
            f" read and {t.work.output:,} generated"
            for t in self.limits.times
        ]

    def bytes(self, architecture: Architecture, bits: Sequence[int] = ()) -> int:
        """An architecture's memory at the workload, at the ``bits`` of its blocks."""
        return self.prices.memory(architecture, bits)

    @property
    def formats(self) -> Mapping[int, str]:
        """The formats that are chosen from, by their bits; none where bits are no axis."""
        return {} if self.prices.files is None else self.prices.files.names

    def widest(self, settings: SearchSettings) -> Bounds:
        """The sizes that the solver may choose from: those of the last level, since it does not
        enumerate them.
        """
        return bounds(self.parent, levels(settings.min_keep)[-1], settings, grid=False)

    @cached_property
    def is_maximal(self) -> NDArray[np.bool_]:
        """[n] bool: the feasible points from which no single step up fits."""
        return maximal(self.feasible, self.bounds, self.prices)

    def candidates(self, scores: Scores, limit: int) -> list[Candidate]:
        """The ``limit`` candidates with the least predicted damage."""
        return candidates(self.parent, scores, self.feasible, self.is_maximal, limit, self.formats)

    def largest(self, scores: Scores, count: int) -> list[Candidate]:
        """The ``count`` candidates with the most parameters."""
        return largest(self.parent, scores, self.feasible, count, self.formats)

    def maximal(self) -> list[Fitting]:
        """The maximal shapes, largest first, with their costs."""
        names = self.prices.names[-len(self.limits.times) :] if self.limits.times else ()
        sparse = self.parent.active_if_fewer is not None
        rows = [
            Fitting(
                shape=self.feasible.shape(int(i)).plain(),
                parameters=int(self.feasible.parameters[i]),
                active=int(self.feasible.active[i]) if sparse else None,
                bytes=int(self.feasible.bytes[i]),
                ms=dict(zip(names, self.feasible.times[i].tolist(), strict=True)) if names else {},
            )
            for i in np.flatnonzero(self.is_maximal)
        ]
        return sorted(rows, key=lambda row: -row.parameters)

    def summary(self) -> SearchSpace:
        """Budget, bounds and counts."""
        timing = self.prices.timing
        budget = SearchBudget(
            text=tuple(self.budget.text),
            parameters=self.limits.parameters,
            active=self.limits.active,
            bytes=self.limits.bytes,
            workload=self.prices.workload,
            times={t.name: t.ms for t in self.limits.times},
            timing=None if timing is None else timing.source,
            margin=None if timing is None else timing.margin,
        )
        cost = ParentCost(
            parameters=self.parent.parameters,
            active=self.parent.active_if_fewer,
            bytes=self.bytes(self.parent),
            times={
                t.name: model_ms(timing, self.parent, t.phase, t.work)
                for t in self.limits.times
                if timing is not None
            },
        )
        return SearchSpace(
            budget=budget,
            not_pruned=tuple(self.parent.rules.sentences()),
            bounds=self.bounds.plain(),
            points=self.points,
            feasible=self.feasible.count,
            parent_cost=cost,
        )


def make_plan(
    parent: Architecture,
    settings: SearchSettings,
    timing: Timing | None = None,
    files: Files | None = None,
) -> Plan:
    """The plan for a parent; time budgets need a ``timing``, a measured table or a roofline, and
    bits of blocks ``files``.

    Raises: UserError for an option that the parent's family has no way to write, a malformed
    budget, one that the parent meets already, one of time without a timing, or one that no point of
    the widest space meets (says the smallest reachable).
    """
    prices = priced(parent, settings, timing, files)
    lost = [] if files is None else files.check(parent)
    for level in levels(settings.min_keep):
        space = bounds(parent, level, settings)
        feasible = enumerate_shapes(space, prices)
        if feasible.count:
            budget = parse_budget(settings.budget, settings.work)
            return Plan(
                parent=parent,
                budget=budget,
                prices=prices,
                bounds=space,
                feasible=feasible,
                notes=(*left_out(parent, level, settings, space), *lost),
            )
    raise _unreachable(space, prices, settings)


def priced(
    parent: Architecture,
    settings: SearchSettings,
    timing: Timing | None = None,
    files: Files | None = None,
) -> Pricing:
    """The limits that a budget means for a parent, and what its blocks cost by them.

    Raises: UserError as ``make_plan``, but for a budget that no point meets.
    """
    check_uniform(parent)
    check_asked(parent, settings)
    workload = Workload(
        context=settings.context,
        batch=settings.batch,
        weights=settings.weights,
        kv=settings.kv,
        state=settings.state,
    )
    budget = parse_budget(settings.budget, settings.work)
    if budget.times and timing is None:
        raise UserError(
            "A budget of time needs times.",
            got=" and ".join(settings.budget) + " without a latency table",
            allowed="run/latency.json, a search.latency table, or an estimate by search.roofline",
            next=f"Run minipuzzle profile with profile.workload {budget.times[0].work} first.",
        )
    hidden = "hidden_size" if settings.hidden_size else "vary hidden"
    if budget.times and settings.tries_hidden and isinstance(timing, LatencyTable):
        raise UserError(
            "A latency table holds times at the model's own hidden size, and none of narrower"
            " ones.",
            got=f"search.{hidden} with {' and '.join(settings.budget)}",
            allowed="an estimate (search.roofline), or another budget",
            next=f"Leave search.{hidden} out, or name a GPU with search.roofline.",
        )

    def parent_ms(phase: Phase, at: Generation) -> float:
        assert timing is not None
        return model_ms(timing, parent, phase, at)

    limits = budget.resolve(
        parent.parameters, memory(parent, workload, files), parent_ms, parent.active_parameters
    )
    prices = pricing(parent, limits, workload, timing if budget.times else None, files)
    _check_needed(prices, settings)
    return prices


def _check_needed(prices: Pricing, settings: SearchSettings) -> None:
    parent, limits = prices.parent, prices.requested
    size = prices.memory(parent)
    small = limits.parameters is None or parent.parameters <= limits.parameters
    small &= limits.active is None or parent.active_parameters <= limits.active
    quick = not limits.times or bool(
        (prices.total(parent) <= prices.limits)[-len(limits.times) :].all()
    )
    if small and quick and (limits.bytes is None or size <= limits.bytes):
        raise UserError(
            "The model meets this budget already: nothing needs pruning.",
            got=" and ".join(settings.budget),
            allowed=(
                f"less than its {sized(parent.parameters, parent.active_if_fewer)} or its"
                f" {size / GIB:.3f} GiB at this workload"
            ),
            next="Give a smaller budget, or use the model as it is.",
        )


def _unreachable(space: Bounds, prices: Pricing, settings: SearchSettings) -> UserError:
    # The smallest hidden size: every cost grows with it.
    shapes = grid(replace(space, hidden=space.hidden[:1]))
    cost = costs(prices.parent, shapes, prices.workload, prices.files)
    took = times(shapes, prices)
    smallest = []
    if prices.requested.parameters is not None:
        smallest.append(f"{cost.parameters.min():,} parameters")
    if prices.requested.active is not None:
        smallest.append(f"{cost.active.min():,} active parameters")
    if prices.requested.bytes is not None:
        smallest.append(f"{cost.bytes.min() / GIB:.3f} GiB")
    free = 1.0 if prices.timing is None else 1 + prices.timing.margin
    smallest += [
        f"{took[:, k].min() * free:.3f} {limit.name}"
        for k, limit in enumerate(prices.requested.times)
    ]
    unused = [f"search.{name}" for name in switches_left(prices.parent, settings)]
    more = f", or add {' or '.join(unused)} to narrow those too" if unused else ""
    return UserError(
        "No architecture in the search space meets this budget.",
        got=" and ".join(settings.budget),
        allowed=f"at least {' and '.join(smallest)} (the smallest reachable)",
        next=(
            f"Raise the budget{more}, or lower search.min_keep; for memory, a shorter"
            " search.context or smaller dtypes."
        ),
    )
