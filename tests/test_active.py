"""Budgets of active parameters and axes that a setting names; brute force is the oracle."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny
from new_kinds import Pool

from minipuzzle.arch import Architecture, Rules
from minipuzzle.cost.pricing import pricing
from minipuzzle.errors import UserError
from minipuzzle.kinds import KINDS
from minipuzzle.memory import Workload
from minipuzzle.nas.choices import combinations, make_choices
from minipuzzle.nas.enumerate import enumerate_shapes, maximal
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.propose import instance, state_of
from minipuzzle.nas.solve import solve
from minipuzzle.report.inspect import inspect_json, inspect_view
from minipuzzle.report.tables import plan_view
from minipuzzle.report.text import as_text
from minipuzzle.scores import Scores
from minipuzzle.settings import Limits, SearchSettings, parse_budget
from minipuzzle.space import bounds, levels, shape_architecture

WORK = Workload(context=50)
VARIED = ("members=2,3,6", "picked", "breadth=2..4")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(KINDS, "pool", Pool)


def parent_of(pattern="P-P", **sizes):
    pool, ffn = Pool(hidden=8, **sizes), tiny("-", hidden=8, intermediate=16).blocks[0]
    blocks = tuple(pool if letter == "P" else ffn for letter in pattern)
    return Architecture(vocab_size=40, hidden=8, blocks=blocks)


def scored(parent, seed=0):
    rng = np.random.default_rng(seed)
    widths = {}
    for i, block in enumerate(parent.blocks):
        for name, shape in block.score_shapes.items():
            widths.setdefault(name, {})[i] = rng.random(shape)
    return Scores(blocks=rng.random(len(parent.blocks)), widths=widths, meta={})


def counted(parent):
    """(all, active), written down anew."""
    total = 2 * 40 * 8 + 8
    active = total
    for block in parent.blocks:
        if block.kind == "mlp":
            total, active = (n + 2 * 8 * block.intermediate + 8 for n in (total, active))
            continue
        every = 8 + block.members * 8
        total += every + block.members * block.breadth * 8
        active += every + block.picked * block.breadth * 8
    return total, active


def test_both_numbers_of_a_model():
    parent = parent_of()
    assert (parent.parameters, parent.active_parameters) == counted(parent)
    assert parent.active_if_fewer == counted(parent)[1] < parent.parameters
    dense = tiny("M-*", vocab=48)
    assert (dense.active_parameters, dense.active_if_fewer) == (dense.parameters, None)


def test_a_budget_of_active_parameters():
    def resolved(*texts):
        return parse_budget(texts).resolve(1000, 10, None, 300)

    assert resolved("active=3.0B") == Limits(active=3 * 10**9)
    assert resolved("active=29%") == Limits(active=87)
    assert resolved("active=90%", "active=200", "50%") == Limits(active=200, parameters=500)
    assert resolved("active=10%", "active=200").active == 30
    for text in ("active=3GB", "active=1.2x", "active=12ms", "active=3B@b8", "active="):
        with pytest.raises(UserError, match=r"budget|time") as caught:
            parse_budget([text])
        assert "active=3B, active=80%" in caught.value.allowed


@pytest.mark.parametrize("limits", [{"active": 0.8}, {"active": 0.85, "parameters": 0.8}])
def test_the_grid_keeps_active_parameters_and_what_sizes_say_of_each_other(limits):
    parent = parent_of()
    settings = SearchSettings(multiple=8, vary=VARIED)
    of = {"active": parent.active_parameters, "parameters": parent.parameters}
    most = Limits(**{name: int(share * of[name]) for name, share in limits.items()})
    space, prices = bounds(parent, levels([])[2], settings), pricing(parent, most, WORK)
    fitting = {}
    for pools, mlp, members, picked, breadth, width in itertools.product(
        range(space.counts["pool"][0], 3), (1,), (2, 3, 6), (1, 2), (2, 3, 4), (8, 16)
    ):
        pool = Pool(hidden=8, members=members, picked=picked, breadth=breadth)
        ffn = replace(parent.blocks[1], intermediate=width)
        total, active = counted(replace(parent, blocks=(*[pool] * pools, *[ffn] * mlp)))
        if active <= (most.active or 1e9) and total <= (most.parameters or 1e9):
            fitting[pools, members, picked, breadth, width] = (total, active)
    names = ("pool", "members", "picked", "breadth", "intermediate")
    feasible = enumerate_shapes(space, prices)
    found = {}
    for i in range(feasible.count):
        shape = feasible.shape(i).plain()
        costs = int(feasible.parameters[i]), int(feasible.active[i])
        found[tuple(shape[name] for name in names)] = costs
        made = shape_architecture(parent, feasible.shape(i))
        assert costs == (made.parameters, made.active_parameters)
    assert found == fitting
    assert 10 < len(found) < space.points
    for point, best in zip(found, maximal(feasible, space, prices), strict=True):
        larger = [
            p for p in found if p != point and all(a >= b for a, b in zip(p, point, strict=True))
        ]
        assert best == (not larger)


def test_sizes_that_contradict_each_other_are_no_points_and_no_options():
    parent = parent_of("PP", picked=4)
    settings = SearchSettings(vary=("members=2,4,6", "picked"))
    space = bounds(parent, levels([])[2], settings)
    assert space.sizes["members"] == (2, 4, 6)
    points = enumerate_shapes(space, pricing(parent, Limits(), WORK)).grid
    pairs = set(
        zip(points.column("members").tolist(), points.column("picked").tolist(), strict=True)
    )
    assert pairs == {(m, p) for m in (2, 4, 6) for p in (1, 2, 3, 4) if p <= m}
    prices = pricing(parent, Limits(active=10**6), WORK)
    left = prices.limits - prices.base
    found = make_choices(parent, scored(parent), space, settings, prices.of, left, prices.names)
    assert {option[:2] for option in found.options[0]} == pairs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("uniform", [False, True])
def test_the_solver_under_a_budget_of_active_parameters_is_brute_force(seed, uniform):
    parent = parent_of()
    settings = SearchSettings(multiple=8, vary=("members=3,6", "picked"), uniform=uniform)
    limits = Limits(
        active=int(0.85 * parent.active_parameters), parameters=int(0.8 * parent.parameters)
    )
    prices = pricing(parent, limits, WORK)
    assert prices.names == ("parameters", "active")
    space = bounds(parent, levels([])[1], settings, grid=False)
    left = prices.limits - prices.base
    found = make_choices(
        parent, scored(parent, seed), space, settings, prices.of, left, prices.names
    )
    states = combinations(found)
    for state in states:
        student = found.selection(state).student(parent)
        cost = (found.cost(state) + prices.base).tolist()
        assert cost == [student.parameters, student.active_parameters]
        pools = [block for block in student.blocks if block.kind == "pool"]
        assert len({block.members for block in pools}) <= 1  # one number for all
    picked = {
        tuple(b.picked for b in found.selection(s).student(parent).blocks if b.kind == "pool")
        for s in states
    }
    assert ((1, 2) in picked) == (not uniform)  # each block its own
    best = state_of(found, solve(instance(found)))
    fitting = [state for state in states if found.fits(state)]
    assert found.predicted(best) == pytest.approx(min(map(found.predicted, fitting)))


def test_messages_and_tables_have_both_numbers():
    parent = parent_of()
    settings = SearchSettings(budget=("active=90%",), multiple=8, vary=("members=3,6",))
    plan = make_plan(parent, settings)
    said = plan.summary()
    assert (said.budget.active, said.budget.parameters) == (plan.limits.active, None)
    assert said.parent_cost.active == parent.active_parameters
    assert all(row.active <= plan.limits.active < row.parameters for row in plan.maximal())
    assert {"parameters", "active"} <= set(plan.maximal()[0].json())
    heading = as_text(plan_view(said, plan.maximal())).splitlines()[2]
    assert re.search(r"members +.*parameters +active +memory", heading)
    assert plan.sentences() == ["kept whole, as search.vary does not name them: picked members"]
    total, active = counted(parent)
    with pytest.raises(UserError, match="already") as caught:
        make_plan(parent, replace(settings, budget=("active=100%",)))
    assert f"{total:,} parameters ({active:,} active)" in caught.value.allowed
    with pytest.raises(UserError, match="No architecture") as caught:
        make_plan(parent, replace(settings, budget=("active=10",)))
    smallest = parent_of("P-", members=3, picked=2, breadth=1)
    smallest = replace(
        smallest, blocks=(smallest.blocks[0], replace(smallest.blocks[1], intermediate=8))
    )
    assert f"{counted(smallest)[1]:,} active parameters" in caught.value.allowed
    assert "search.vary picked" in caught.value.next
    view = as_text(inspect_view("it", parent, WORK))
    assert f"it: {total:,} parameters ({active:,} active) in 3 blocks" in view
    assert re.search(r"parameters +share +active", view)
    assert inspect_json(parent, WORK)["active"] == active


def test_a_model_without_such_blocks_prints_one_number():
    parent = tiny("M-M*-M-", vocab=48)
    plan = make_plan(parent, SearchSettings(budget=("active=80%",), multiple=8))
    assert plan.limits.active == int(0.8 * parent.parameters)
    assert "active" not in plan.summary().json()["parent_cost"]
    assert "active" not in plan.maximal()[0].json()
    assert "active" not in as_text(plan_view(plan.summary(), plan.maximal())).split("\n", 1)[1]
    assert "active" not in inspect_json(parent, WORK)
    assert "active" not in as_text(inspect_view("it", parent, WORK))
    assert plan.sentences() == []


def test_axes_and_sizes_that_are_named():
    parent = tiny("M-M*-M-", vocab=48)  # 8 heads in 2 groups, 64 FFN channels, hidden size 32

    def sizes(*vary, share=1, **more):
        settings = SearchSettings(vary=vary, multiple=8, **more)
        space = bounds(parent, levels([])[share], settings)
        return {**space.sizes, "hidden": space.hidden}

    usual = {"intermediate": (32, 40, 48, 56, 64), "heads": (8,), "hidden": (32,)}
    assert sizes() == usual
    assert sizes("heads") == sizes(mamba_heads=True) == usual | {"heads": (4, 6, 8)}
    assert sizes("hidden") == sizes(hidden_size=True) == usual | {"hidden": (16, 24, 32)}
    assert sizes("heads=2,6")["heads"] == (2, 6, 8)  # the whole is always tried
    assert sizes("heads=4..6")["heads"] == (4, 6, 8)
    assert sizes("intermediate=24..40")["intermediate"] == (24, 32, 40, 64)
    assert sizes("intermediate=20..40/10")["intermediate"] == (20, 30, 40, 64)
    assert sizes("hidden=12..20/4", share=0)["hidden"] == (12, 16, 20, 32)
    assert sizes("hidden = 24, 12")["hidden"] == (12, 24, 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not say"),
        ("heads=", "does not say"),
        ("heads=4..", "does not say"),
        ("heads=4-6", "does not say"),
        ("heads=" + "1" * 5000, "does not say"),
        ("heads=0,4", "size of 0"),
        ("heads=4..8/0", "size of 0"),
        ("heads=8..4", "smaller size first"),
        ("heads=3", "multiples of 2 up to 8"),
        ("heads=2..8/3", "multiples of 2 up to 8"),
        ("heads=10", "multiples of 2 up to 8"),
        ("hidden=64", "at most 32"),
        ("kv_heads=3", "at most 2"),
        ("members=3", "intermediate, heads, head_dim, state, hidden"),
    ],
)
def test_what_cannot_be_varied_is_refused(text, message):
    with pytest.raises(UserError) as caught:
        make_plan(tiny(vocab=48), SearchSettings(budget=("80%",), vary=(text,)))
    assert message in str(caught.value)
    with pytest.raises(UserError, match="each axis once"):
        SearchSettings(vary=("heads=4", "heads"))


def test_a_space_that_is_too_large_is_refused_before_it_is_made():
    parent = tiny("M-M*-M-", vocab=48, intermediate=2**16, heads=2**12, groups=1)
    vary = ("intermediate=1..65536/1", "heads=1..4096/1", "hidden=24")
    with pytest.raises(UserError, match="too large for a grid") as caught:
        make_plan(parent, SearchSettings(budget=("50%",), vary=vary))
    assert "65,536 of intermediate" in caught.value.got
    assert "2 of hidden" in caught.value.got


def test_an_axis_that_the_familys_files_fix_is_refused_by_name():
    rules = Rules(fixed=("heads", "hidden"))
    parent = replace(tiny("M-", vocab=48), rules=rules)
    for axis in ("heads=4", "hidden=16"):
        with pytest.raises(UserError, match=f"search.vary {axis[:5]}"):
            make_plan(parent, SearchSettings(budget=("80%",), vary=(axis,)))
