"""Candidates from the solver: the best choices block by block under every budget, and others unlike
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from minipuzzle.arch import Architecture
from minipuzzle.cost.pricing import Pricing
from minipuzzle.nas.choices import Choices, State, make_choices
from minipuzzle.nas.program import Instance
from minipuzzle.nas.select import Candidate, student_of
from minipuzzle.nas.solve import Infeasible, Solution, diverse, sweep
from minipuzzle.records import FrontPoint
from minipuzzle.scores import Scores
from minipuzzle.settings import SearchSettings
from minipuzzle.settings.bits import AXIS
from minipuzzle.space import Bounds

OVERLAP = 0.9
"""Largest share of blocks on which two proposals may agree; Puzzle takes 0.8 of more choices a
block (arXiv:2411.19146).
"""
FRONT_POINTS = 12


BytesOf = Callable[..., int]
"""An architecture's memory at the workload, and at the bits of its blocks where these are chosen.
"""


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """States of one hidden size that the solver found, best first, and how sure it is: ``gap`` is
    relative, 0 for proven optima. ``prices`` are those at that size.
    """

    choices: Choices
    prices: Pricing
    states: tuple[State, ...]
    seconds: float
    gap: float

    def candidates(self, bytes_of: BytesOf, first: int = 1) -> list[Candidate]:
        """The states as candidates s001, s002, ..., or from another number on."""
        return [
            candidate(self.choices, s, f"s{n:03}", "solver", bytes_of)
            for n, s in enumerate(self.states, first)
        ]


def propose_each(
    parent: Architecture,
    scores: Scores,
    space: Bounds,
    settings: SearchSettings,
    prices: Pricing,
    count: int,
) -> list[Proposals]:
    """``propose`` for each hidden size of the space, ``count`` in all; sizes at which nothing fits
    are left out.

    Raises: UserError where nothing fits at any size.
    """
    found: list[Proposals] = []
    refused: list[Infeasible] = []
    for hidden in space.hidden:
        here = prices if hidden == parent.hidden else prices.at_hidden(hidden)
        try:
            found.append(
                propose(parent, scores, space, settings, here, max(1, count // len(space.hidden)))
            )
        except Infeasible as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return found


def propose(
    parent: Architecture,
    scores: Scores,
    space: Bounds,
    settings: SearchSettings,
    prices: Pricing,
    count: int,
) -> Proposals:
    """Up to ``count`` solutions at the hidden size of ``prices``, each differing from those before
    in at least a tenth of the blocks.

    Raises: UserError where no choice of blocks meets the budgets (names those that bind and the
    smallest reachable).
    """
    hidden = prices.parent.hidden
    choices = make_choices(
        parent,
        scores,
        space,
        settings,
        lambda block, *bits: prices.of(replace(block, hidden=hidden), *bits),
        prices.limits - prices.base,
        prices.names,
        hidden,
        prices.files,
    )
    found = diverse(instance(choices), count, overlap=OVERLAP)
    return Proposals(
        choices=choices,
        prices=prices,
        states=tuple(state_of(choices, s) for s in found),
        seconds=sum(s.seconds for s in found),
        gap=max(s.gap for s in found),
    )


def front(each: Sequence[Proposals]) -> tuple[FrontPoint, ...]:
    """The predicted Pareto front: least damage at limits from the smallest reachable to the
    parent's own cost, the best of all hidden sizes.

    All limits are scaled together, from those of an almost empty model to those of the whole one.
    """
    rows = [row for proposals in each for row in _front(proposals.choices, proposals.prices)]
    return tuple(row for row in rows if not any(_beats(other, row) for other in rows))


def _beats(other: FrontPoint, row: FrontPoint) -> bool:
    cheaper = all(a <= b for a, b in zip(other.cost, row.cost, strict=True))
    return cheaper and other.damage < row.damage


def _front(choices: Choices, prices: Pricing) -> list[FrontPoint]:
    cheapest = sum(c.min(axis=0) for c in choices.costs)
    most_expensive = sum(c[0] for c in choices.costs)
    shares = np.linspace(0.3, 1.0, FRONT_POINTS)
    limits = [cheapest + share * (most_expensive - cheapest) for share in shares]
    rows = []
    for limit, solution in zip(limits, sweep(instance(choices), limits), strict=True):
        cost = choices.cost(state_of(choices, solution)) + prices.base
        rows.append(
            FrontPoint(
                limit=tuple((limit + prices.base).tolist()),
                cost=tuple(cost.tolist()),
                damage=float(solution.damage + choices.hidden_damage),
                gap=float(solution.gap),
            )
        )
    return rows


def candidate(
    choices: Choices, state: State, name: str, origin: str, bytes_of: BytesOf
) -> Candidate:
    """A state as a candidate; ``bytes_of`` prices an architecture's memory at the workload."""
    sizes = choices.sizes(state)
    hidden = choices.parent.hidden if choices.hidden is None else len(choices.hidden)
    student = student_of(choices.parent, sizes, hidden)
    bits = tuple(of[AXIS] for of in sizes.values()) if choices.formats else ()
    return Candidate(
        name=name,
        origin=origin,
        student=student,
        blocks=tuple(sizes),
        hidden=choices.hidden,
        damage=choices.predicted(state),
        bytes=bytes_of(student, bits) if bits else bytes_of(student),
        select=partial(choices.selection, state),
        bits=bits,
    )


def instance(choices: Choices) -> Instance:
    """The choices as a problem for the solver: sizes that blocks share are tags. Axes that the same
    blocks share are one tag: of an axis each, HiGHS proves little and slowly.
    """
    blocks: dict[int, list[int]] = {}  # coupling -> the blocks that have it
    for i, couplings in enumerate(choices.couplings):
        for coupling in couplings:
            blocks.setdefault(coupling, []).append(i)
    numbers: dict[tuple[int, tuple[int, ...]], int] = {}  # (class, its sizes) -> tag
    tags, classes = [], []
    for couplings, options, columns in zip(
        choices.couplings, choices.options, choices.worthwhile, strict=True
    ):
        mine: dict[int, list[int]] = {}  # class, the first coupling of the same blocks -> axes
        for axis, coupling in enumerate(couplings):
            if len(blocks[coupling]) > 1:
                first = min(c for c in couplings if blocks[c] == blocks[coupling])
                mine.setdefault(first, []).append(axis)
        found = np.full((len(columns), len(mine)), -1, dtype=np.int64)
        for place, (number, axes) in enumerate(mine.items()):
            for row, column in enumerate(columns[:-1].tolist()):
                sizes = tuple(options[column][axis] for axis in axes)
                found[row, place] = numbers.setdefault((number, sizes), len(numbers))
        tags.append(found)
        classes.append(tuple(mine))
    pairs = list(zip(choices.damage, choices.costs, choices.worthwhile, strict=True))
    return Instance(
        damage=tuple(damage[columns] for damage, _, columns in pairs),
        costs=tuple(costs[columns] for _, costs, columns in pairs),
        limits=choices.limits,
        names=choices.names,
        tags=tuple(tags),
        classes=tuple(classes),
        together=tuple(group for group in choices.parent.layer_groups if len(group) > 1),
    )


def state_of(choices: Choices, solution: Solution) -> State:
    """A solution's choices as options."""
    found = zip(solution.choices, choices.worthwhile, choices.options, strict=True)
    return tuple(
        None if columns[chosen] == len(options) else int(columns[chosen])
        for chosen, columns, options in found
    )
