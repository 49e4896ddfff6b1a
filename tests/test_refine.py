"""Choices and local search: every state fits, units stay together, and small spaces are searched to
the optimum.
"""

from dataclasses import replace

import numpy as np
import pytest
from conftest import level_of, tiny

from minipuzzle.cost.pricing import pricing
from minipuzzle.importance import random_scores
from minipuzzle.memory import Workload
from minipuzzle.nas.choices import combinations, coupled, make_choices, whole
from minipuzzle.nas.damage import block_damage
from minipuzzle.nas.propose import candidate, instance, propose, state_of
from minipuzzle.nas.rank import Evaluated, Quality, shortlist
from minipuzzle.nas.refine import neighbours, refine
from minipuzzle.nas.solve import solve
from minipuzzle.scores import Scores
from minipuzzle.settings import Limits, SearchSettings
from minipuzzle.space import bounds

LEVEL = level_of(attention=0, others=0, width=0.25, hidden=0.25)


def made(share=0.8, pattern="M-M*-", seed=0, **settings):
    parent = tiny(pattern, vocab=64)
    scores = random_scores(parent, seed)
    options = SearchSettings(budget=("80%",), multiple=16, **settings)
    space = bounds(parent, LEVEL, options, grid=False)
    workload = Workload(context=100)
    prices = pricing(
        parent, Limits(parameters=int(share * parent.parameters), bytes=10**7), workload
    )
    choices = make_choices(
        parent, scores, space, options, prices.of, prices.limits - prices.base, prices.names
    )
    return parent, scores, options, space, prices, choices


def test_prices_of_blocks_add_up_to_the_student():
    parent, _, _, _, prices, choices = made(mamba_heads=True)
    for state in combinations(choices)[::37]:
        student = choices.selection(state).student(parent)
        assert (choices.cost(state) + prices.base)[0] == student.parameters
    assert choices.predicted(whole(choices)) == 0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("uniform", [False, True])
def test_the_solver_is_brute_force(seed, uniform):
    *_, choices = made(seed=seed, uniform=uniform, mamba_heads=True, pattern="M-*M-")
    best = min(choices.predicted(s) for s in combinations(choices) if choices.fits(s))
    found = state_of(choices, solve(instance(choices)))
    assert choices.predicted(found) == pytest.approx(best)
    assert choices.fits(found)
    assert coupled(choices, found)


def test_neighbours_fit_and_keep_units_together():
    *_, choices = made(uniform=True, mamba_heads=True)
    start = state_of(choices, solve(instance(choices)))
    around = neighbours(choices, start)
    assert around
    assert len(set(around)) == len(around)
    assert all(choices.fits(s) and coupled(choices, s) and s != start for s in around)


def test_local_search_finds_what_the_sum_of_scores_cannot_see():
    """Two blocks that stand in for each other: alone each is cheap to drop, together they are
    not.
    """
    *_, choices = made(share=0.85, pattern="-M-*-")
    start = state_of(choices, solve(instance(choices)))

    def real(state):
        return choices.predicted(state) + 5.0 * sum(rung is None for rung in state) ** 2

    end = refine(choices, start, real(start), real, tries=1000)
    assert end.settled
    assert end.value < real(start)
    assert end.value == min(real(s) for s in [end.state, *neighbours(choices, end.state)])
    assert refine(choices, start, real(start), real, tries=3).tried <= 3


def test_a_state_is_its_selection():
    parent, scores, options, space, prices, choices = made(mamba_heads=True)
    for state in combinations(choices)[::53]:
        assert choices.state(choices.selection(state)) == state
    proposals = propose(parent, scores, space, options, prices, 5)
    assert len(proposals.states) == 5
    assert proposals.gap == 0


def test_curves_are_read_between_measured_sizes():
    parent = tiny()
    base = random_scores(parent, 0)
    curve = (np.array([16, 32, 48]), np.array([0.5, 0.2, 0.05]))
    scores = Scores(
        blocks=np.ones(len(parent.blocks)),
        widths=base.widths,
        meta={},
        curves={1: {"intermediate": curve}},
    )
    values = [block_damage(parent, scores, 1, {"intermediate": s}) for s in range(1, 65)]
    assert values[15::16] == pytest.approx([0.5, 0.2, 0.05, 0.0])
    assert values == sorted(values, reverse=True)


def test_the_short_list_by_kl_holds_different_blocks_first():
    *_, choices = made(mamba_heads=True)
    states = [s for s in combinations(choices) if choices.fits(s)][::5]
    by_kl = [
        Evaluated(
            candidate=candidate(choices, s, f"x{i}", "test", lambda a: 0),
            quality=Quality(0, 0, 0, i),
        )
        for i, s in enumerate(states)
    ]
    kept = shortlist(by_kl, 3, "kl")
    assert len({tuple(r.candidate.selection.kept_blocks) for r in kept}) == 3
    assert all(r.candidate.blocks == tuple(r.candidate.selection.kept_blocks) for r in kept)
    assert all(r.candidate.student == r.candidate.selection.student(choices.parent) for r in kept)
    assert kept[0] is by_kl[0]
    assert shortlist(by_kl, 3, "agreement") == by_kl[:3]
    solvers = [
        replace(r, candidate=replace(r.candidate, origin="solver", damage=-i))
        for i, r in enumerate(by_kl)
    ]
    assert [r.candidate.name for r in shortlist(solvers, 2, "kl")] == [
        by_kl[0].candidate.name,
        by_kl[-1].candidate.name,
    ]
    halved = [
        replace(r, candidate=replace(r.candidate, name=f"h{i}", hidden=(0, 1)))
        for i, r in enumerate(by_kl)
    ]
    assert shortlist([*by_kl, *halved], 3, "agreement") == [by_kl[0], halved[0], by_kl[1]]
    everything = shortlist(by_kl, len(by_kl), "kl")
    assert sorted(r.candidate.name for r in everything) == sorted(r.candidate.name for r in by_kl)
