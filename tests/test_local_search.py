"""Local search against brute force over small spaces: repair, the order of moves, overlap, and what
the solver proves.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import level_of, tiny
from helpers import Watched

from minipuzzle.cost.pricing import pricing
from minipuzzle.importance import random_scores
from minipuzzle.memory import Workload
from minipuzzle.nas.choices import combinations, coupled, make_choices, whole
from minipuzzle.nas.program import Instance
from minipuzzle.nas.propose import OVERLAP, instance, propose, state_of
from minipuzzle.nas.refine import neighbours, refine, repair
from minipuzzle.nas.solve import diverse, solve
from minipuzzle.settings import Limits, SearchSettings
from minipuzzle.space import bounds

LEVEL = level_of(attention=0, others=0, width=0.25, hidden=0.25)


def made(share=0.8, pattern="M-M*-", seed=0, **settings):
    parent = tiny(pattern, vocab=64)
    options = SearchSettings(budget=("80%",), multiple=16, mamba_heads=True, **settings)
    space = bounds(parent, LEVEL, options, grid=False)
    prices = pricing(
        parent, Limits(parameters=int(share * parent.parameters)), Workload(context=100)
    )
    scores = random_scores(parent, seed)
    left = prices.limits - prices.base
    return (
        parent,
        scores,
        options,
        space,
        prices,
        make_choices(parent, scores, space, options, prices.of, left, prices.names),
    )


def one_step_up(choices, state, touched):
    """Every state that grows one coupled group of blocks by a size, or restores one block, at its
    group's size where it has one and whole where not.
    """
    for other in combinations(choices):
        differing = [i for i, (a, b) in enumerate(zip(state, other, strict=True)) if a != b]
        if not differing or touched & set(differing):
            continue
        grown = all(
            state[i] is not None and other[i] is not None and other[i] == state[i] - 1
            for i in differing
        )
        group = {choices.couplings[i] for i in differing}
        whole_group = len(group) == 1 and all(
            i in differing
            for i, rung in enumerate(state)
            if rung is not None and choices.couplings[i] in group
        )
        mates = any(r is not None and choices.couplings[i] in group for i, r in enumerate(state))
        restored = (
            len(differing) == 1
            and state[differing[0]] is None
            and (mates or other[differing[0]] == 0)
        )
        if (grown and whole_group) or restored:
            yield other


@pytest.mark.parametrize("seed", range(3))
def test_what_is_repaired_fits_keeps_what_was_touched_and_cannot_grow(seed):
    *_, choices = made(seed=seed)
    rng = np.random.default_rng(seed)
    states = combinations(choices)
    for index in rng.choice(len(states), 12, replace=False):
        state = states[index]
        for touched in (frozenset(), frozenset({int(rng.integers(len(state)))})):
            fixed = repair(choices, state, touched, drops=True)
            if fixed is None:
                assert touched  # without them everything may go
                continue
            assert choices.fits(fixed)
            assert coupled(choices, fixed)
            assert all(fixed[i] == state[i] for i in touched)
            left = [s for s in one_step_up(choices, fixed, touched) if choices.fits(s)]
            assert not [s for s in left if choices.predicted(s) < choices.predicted(fixed)]


def test_repair_without_drops_changes_sizes_only():
    *_, choices = made()
    for state in combinations(choices)[::31]:
        fixed = repair(choices, state, frozenset(), drops=False)
        if fixed is not None:
            assert [r is None for r in fixed] == [r is None for r in state]


def test_repair_takes_what_costs_least_for_what_it_frees():
    """Two blocks of one size, of which the second is worth nothing: it goes, not the first."""
    *_, choices = made(share=0.9, pattern="--", seed=0)
    damage = (
        np.linspace(0, 9, len(choices.damage[0])),
        np.linspace(0, 0.1, len(choices.damage[1])),
    )
    choices = replace(choices, damage=damage)
    fixed = repair(choices, whole(choices), frozenset(), drops=True)
    assert fixed[0] == 0
    assert fixed[1] != 0


def test_moves_are_tried_in_the_order_of_predicted_damage_and_the_first_that_helps_is_taken():
    *_, choices = made(share=0.85, pattern="-M-*-")
    start = state_of(choices, solve(instance(choices)))
    around = neighbours(choices, start)
    predicted = [choices.predicted(s) for s in around]
    assert predicted == sorted(predicted)
    assert len(set(predicted)) > 5
    tried, helps = [], around[4]

    def measure(state):
        tried.append(state)
        return 0.5 if state == helps else 2.0

    seen = []
    end = refine(choices, start, 1.0, measure, tries=7, progress=Watched(seen.append))
    assert tried[:5] == around[:5]
    assert tried[5:] == [s for s in neighbours(choices, helps) if s not in {start, *tried[:5]}][:2]
    assert (end.state, end.value, end.tried, end.accepted, end.settled) == (helps, 0.5, 7, 1, False)
    assert seen == [1] * 7
    assert len(set(tried)) == len(tried)


def test_an_equal_value_is_no_improvement_and_the_end_is_said():
    *_, choices = made(share=0.85, pattern="-M-*-")
    start = state_of(choices, solve(instance(choices)))
    around = neighbours(choices, start)
    end = refine(choices, start, 1.0, lambda state: 1.0, tries=10**6)
    assert (end.state, end.accepted, end.tried, end.settled) == (start, 0, len(around), True)
    assert not refine(choices, start, 1.0, lambda state: 1.0, tries=len(around) - 1).settled


def test_every_kind_of_move_is_among_the_neighbours():
    """Drop, restore, swap and resize, each by brute force over one-block changes that fit as they
    are.
    """
    *_, choices = made(share=0.75, pattern="M-M-*-", seed=3)
    start = state_of(choices, solve(instance(choices)))
    dropped = [i for i, rung in enumerate(start) if rung is None]
    assert dropped
    around = neighbours(choices, start)
    fewer = [s for s in around if sum(r is None for r in s) > len(dropped)]
    more = [s for s in around if sum(r is None for r in s) < len(dropped)]
    swapped = [
        s
        for s in around
        if {i for i, r in enumerate(s) if r is None} != set(dropped)
        and sum(r is None for r in s) == len(dropped)
    ]
    resized = [s for s in around if [r is None for r in s] == [r is None for r in start]]
    assert fewer
    assert more
    assert swapped
    assert resized


def test_proposals_agree_on_nine_tenths_of_the_blocks_at_most():
    parent, scores, options, space, prices, _ = made(pattern="M-M*-M-M*-M-", share=0.8)
    proposals = propose(parent, scores, space, options, prices, 6)
    assert OVERLAP == 0.9
    most = int(np.ceil(0.9 * len(parent.blocks) - 1e-9))
    alike = [
        sum(a == b for a, b in zip(s, t, strict=True))
        for s, t in itertools.combinations(proposals.states, 2)
    ]
    assert max(alike) <= most
    assert len(proposals.states) == 6
    harms = [proposals.choices.predicted(s) for s in proposals.states]
    assert harms == pytest.approx(sorted(harms))


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.75])
def test_overlap_counts_blocks_and_no_more_than_it_must(overlap):
    """The second solution is the best of all that agree with the first on at most ceil(overlap x
    blocks), by brute force.
    """
    rng = np.random.default_rng(5)
    damage, costs = (
        tuple(rng.random(3) for _ in range(6)),
        tuple(rng.integers(1, 9, (3, 1)).astype(float) for _ in range(6)),
    )
    case = Instance(damage=damage, costs=costs, limits=np.array([24.0]), names=("a",))
    first, second = diverse(case, 2, overlap=overlap)
    most = int(np.ceil(overlap * 6 - 1e-9))
    every = [
        c
        for c in itertools.product(range(3), repeat=6)
        if sum(costs[i][j, 0] for i, j in enumerate(c)) <= 24
    ]
    value = lambda c: sum(damage[i][j] for i, j in enumerate(c))  # noqa: E731
    assert value(first.choices) == pytest.approx(min(map(value, every)))
    far = [c for c in every if sum(a == b for a, b in zip(c, first.choices, strict=True)) <= most]
    assert value(second.choices) == pytest.approx(min(map(value, far)))


def test_the_gap_is_what_is_left_to_prove():
    """A bound below the optimum, and the gap relative to what was found; a coarse stop is not
    called optimal.
    """
    rng = np.random.default_rng(1)
    damage = tuple(np.sort(rng.random(6)) for _ in range(40))
    costs = tuple(
        np.sort(rng.integers(1, 10**6, (6, 3)), axis=0)[::-1].astype(float) for _ in range(40)
    )
    limits = np.sum([c[0] for c in costs], axis=0) * np.array([0.6, 0.62, 0.61])
    case = Instance(damage=damage, costs=costs, limits=limits, names=("a", "b", "c"))
    coarse, exact = solve(case, gap=0.3), solve(case, seconds=20.0)
    assert coarse.damage >= exact.damage - 1e-9
    assert coarse.bound <= exact.damage + 1e-9
    assert coarse.gap == pytest.approx((coarse.damage - coarse.bound) / coarse.damage, abs=1e-9)
    assert coarse.gap <= 0.3
    assert not coarse.optimal
    assert exact.damage == pytest.approx(
        sum(d[j] for d, j in zip(damage, exact.choices, strict=True))
    )
    assert exact.costs.tolist() == pytest.approx(
        sum(c[j] for c, j in zip(costs, exact.choices, strict=True)).tolist()
    )
