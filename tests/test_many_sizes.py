"""Where axes multiply: fewer sizes, fewer options for the solver, and what is lost: nothing."""

import numpy as np
import pytest
from new_kinds import Pool
from test_active import WORK, parent_of, scored

from minipuzzle.cost.pricing import pricing
from minipuzzle.kinds import KINDS
from minipuzzle.nas import choices, unbeaten
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.propose import candidate, instance, state_of
from minipuzzle.nas.solve import diverse, solve
from minipuzzle.settings import Limits, SearchSettings
from minipuzzle.space import bounds, levels, thinned


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(KINDS, "pool", Pool)


def made(monkeypatch, seed, solved, parent, **settings):
    """The choices of a parent where the solver gets at most ``solved`` options of a block whole."""
    monkeypatch.setattr(unbeaten, "SOLVED", solved)
    asked = SearchSettings(multiple=4, vary=("members=3,4,6", "picked"), **settings)
    limits = Limits(
        parameters=int(0.7 * parent.parameters), active=int(0.9 * parent.active_parameters)
    )
    prices = pricing(parent, limits, WORK)
    space, left = bounds(parent, levels([])[2], asked, grid=False), prices.limits - prices.base
    return choices.make_choices(
        parent, scored(parent, seed), space, asked, prices.of, left, prices.names
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("uniform", [False, True])
def test_the_solver_finds_the_same_among_the_options_that_may_be_best(monkeypatch, seed, uniform):
    parent = parent_of("P-PP-", members=6, picked=3, breadth=6)
    whole = made(monkeypatch, seed, 10**9, parent, uniform=uniform)
    assert all(len(c) == len(o) + 1 for c, o in zip(whole.worthwhile, whole.options, strict=True))
    best = solve(instance(whole))
    few = made(monkeypatch, seed, 1, parent, uniform=uniform)
    assert few.options == whole.options
    counts = [sum(map(len, found.worthwhile)) for found in (few, whole)]
    assert counts[0] < (0.95 if uniform else 0.8) * counts[1]
    found = solve(instance(few))
    assert found.damage == pytest.approx(best.damage)
    for solution in diverse(instance(few), 3, overlap=0.9):
        state = state_of(few, solution)
        assert few.fits(state)
        assert choices.coupled(few, state)
        assert few.predicted(state) == pytest.approx(solution.damage)
        made_ = candidate(few, state, "s", "solver", lambda a: a.parameters)
        assert made_.student == made_.selection.student(parent)
        assert list(made_.blocks) == made_.selection.kept_blocks
        assert few.state(made_.selection) == state


def test_rows_that_no_other_beats_are_those_of_brute_force():
    for seed in range(30):
        values = np.random.default_rng(seed).integers(0, 5, (20, 3)).astype(float)
        kept = unbeaten.unbeaten(values)
        for i, row in enumerate(values):
            others = [o for j, o in enumerate(values) if j != i and (o <= row).all()]
            beaten = any((o < row).any() for o in others)
            assert not (kept[i] and beaten)
            assert kept[i] or others
        assert len({tuple(row) for row in values[kept]}) == kept.sum()  # of equal rows one


def test_fewer_sizes_of_the_axes_that_have_most():
    sizes = {"a": tuple(range(1, 10)), "b": (2, 4, 6, 8), "c": (5, 7)}
    assert thinned(sizes, (), 72) == sizes
    assert thinned(sizes, (), 71) == {**sizes, "a": (1, 3, 5, 7, 9)}
    assert thinned(sizes, (), 30) == {**sizes, "a": (1, 5, 9)}
    assert thinned(sizes, ("a",), 30) == {**sizes, "b": (2, 8)}  # as named
    assert thinned(sizes, ("a", "b"), 3) == sizes
    least = {"a": (1, 9), "b": (2, 8), "c": (5, 7)}
    assert thinned(sizes, (), 1) == least


def test_a_grid_that_is_too_large_has_fewer_sizes_and_says_which(monkeypatch):
    parent = parent_of("P-P", members=32, breadth=4)
    settings = SearchSettings(budget=("60%",), multiple=8, vary=("members",))
    usual = make_plan(parent, settings)
    assert usual.sentences() == ["kept whole, as search.vary does not name them: picked members"]
    monkeypatch.setattr("minipuzzle.space.ranges.MOST", usual.points // 2)
    few = make_plan(parent, settings)
    # members are named, so that breadth gives way
    assert few.bounds.sizes["members"] == usual.bounds.sizes["members"]
    assert len(few.bounds.sizes["breadth"]) < len(usual.bounds.sizes["breadth"])
    assert few.points < usual.points
    assert few.sentences()[1].startswith(
        "not every size is tried, for the size of the grid: breadth"
    )
