"""Enumeration against brute force, and the paper's grid in time."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
from conftest import shape_of, space_of, tiny
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scored_parents import SPACE, every_shape, scored
from test_architectures import paper_plan

from minipuzzle.cost.pricing import pricing
from minipuzzle.errors import UserError
from minipuzzle.memory import BYTES, Workload, resident
from minipuzzle.nas.enumerate import enumerate_shapes, maximal
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.select import candidates, damage, select
from minipuzzle.settings import Limits, SearchSettings
from minipuzzle.space import shape_architecture

WORKLOADS = st.builds(
    Workload,
    context=st.integers(1, 300),
    batch=st.integers(1, 3),
    weights=st.sampled_from(list(BYTES)),
    kv=st.sampled_from(list(BYTES)),
    state=st.sampled_from(list(BYTES)),
)


def fitting(parent, limits, workload):
    """{shape: (parameters, bytes)} of what fits, priced one architecture at a time."""
    found = {}
    for shape in every_shape(SPACE):
        made = shape_architecture(parent, shape)
        cost = made.parameters, resident(made, workload).total
        if cost[0] <= (limits.parameters or np.inf) and cost[1] <= (limits.bytes or np.inf):
            found[shape] = cost
    return found


@settings(deadline=None, max_examples=12)
@given(
    workload=WORKLOADS,
    share=st.floats(0.5, 1),
    kinds=st.sampled_from([(True, False), (False, True), (True, True)]),
)
def test_what_fits_and_what_is_maximal_is_what_brute_force_finds(workload, share, kinds):
    parent = tiny("M-M*-M-", vocab=48)
    limits = Limits(
        parameters=int(parent.parameters * share) if kinds[0] else None,
        bytes=int(resident(parent, workload).total * share) if kinds[1] else None,
    )
    feasible = enumerate_shapes(SPACE, pricing(parent, limits, workload))
    expected = fitting(parent, limits, workload)
    found = {
        feasible.shape(i): (feasible.parameters[i], feasible.bytes[i])
        for i in range(feasible.count)
    }
    assert feasible.count == len(found)
    assert found == expected
    best = maximal(feasible, SPACE, pricing(parent, limits, workload))
    assert len({tuple(shape.plain()) for shape in expected}) <= 1  # the same names, in one order
    sizes = np.array([list(shape.plain().values()) for shape in expected]).reshape(
        len(expected), -1
    )
    for index, shape in enumerate(found):
        no_smaller = (sizes >= list(shape.plain().values())).all(axis=1)  # the shape among them
        assert best[index] == (no_smaller.sum() == 1)


def test_a_limit_is_inclusive():
    parent, workload = tiny("M-*", vocab=48), Workload(context=4)
    space = space_of(
        attention=(1, 1), mlp=(1, 1), mamba=(1, 1), intermediate=(64,), heads=(8,), hidden=(32,)
    )
    exact = Limits(parameters=parent.parameters, bytes=resident(parent, workload).total)
    assert enumerate_shapes(space, pricing(parent, exact, workload)).count == 1
    assert (
        enumerate_shapes(
            space, pricing(parent, replace(exact, parameters=parent.parameters - 1), workload)
        ).count
        == 0
    )
    assert (
        enumerate_shapes(
            space, pricing(parent, replace(exact, bytes=exact.bytes - 1), workload)
        ).count
        == 0
    )


def counted(monkeypatch, name):
    """How often a function of the search is called from now on."""
    module, attribute = name.rsplit(".", 1)
    inner, calls = getattr(importlib.import_module(module), attribute), []
    monkeypatch.setattr(name, lambda *args: calls.append(args) or inner(*args))
    return calls


def test_the_whole_grid_of_the_56b_is_priced_block_by_block(monkeypatch):
    """299,475 points: each distinct block is priced once, and what candidates keep is made only
    when it is asked for.
    """
    plan = paper_plan()
    whole = space_of(
        attention=(0, 10),
        mlp=(0, 54),
        mamba=(0, 54),
        intermediate=tuple(range(24576, 32769, 1024)),
        heads=(256,),
        hidden=(8192,),
    )
    priced = counted(monkeypatch, "minipuzzle.nas.enumerate.values")
    feasible = enumerate_shapes(whole, pricing(plan.parent, plan.limits, plan.prices.workload))
    assert whole.points == 11 * 55 * 55 * 9
    assert len(priced) == 1 + 1 + 9 + 1  # no block, attention, nine FFN widths, Mamba
    best = maximal(feasible, whole, pricing(plan.parent, plan.limits, plan.prices.workload))
    assert len(priced) <= 7 * 12  # a step up in each of six directions
    points = feasible.grid.points
    assert (5, 48, 45, 30720, 256, 8192) in {tuple(row) for row in points[best].tolist()}
    assert not (points[(points[:, 1:4] >= (47, 44, 30720)).all(axis=1), 0] >= 6).any()
    selected = counted(monkeypatch, "minipuzzle.nas.select.select")
    found = candidates(plan.parent, scored(plan.parent), feasible, best, 5)
    assert (len(found), selected) == (5, [])
    assert [c.selection.student(plan.parent) for c in found] == [c.student for c in found]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), share=st.floats(0.55, 0.95), limit=st.integers(1, 60))
def test_candidates_are_the_maximal_then_the_rest_by_least_damage(seed, share, limit):
    parent, workload = tiny("M-M*-M-", vocab=48), Workload(context=8)
    limits, scores = Limits(parameters=int(parent.parameters * share)), scored(parent, seed)
    feasible = enumerate_shapes(SPACE, pricing(parent, limits, workload))
    assume(feasible.count)
    best = maximal(feasible, SPACE, pricing(parent, limits, workload))
    harms = [
        damage(parent, scores, select(parent, scores, feasible.shape(i)))
        for i in range(feasible.count)
    ]
    expected = sorted((bool(~b), harm) for b, harm in zip(best, harms, strict=True))[:limit]
    found = candidates(parent, scores, feasible, best, limit)
    assert [c.damage for c in found] == pytest.approx([harm for _, harm in expected])
    assert [c.name for c in found] == [f"c{n:03}" for n in range(1, len(expected) + 1)]
    for candidate in found:
        student = candidate.selection.student(parent)
        assert candidate.parameters == student.parameters
        assert candidate.bytes == resident(student, workload).total


def test_the_largest_are_those_with_the_most_parameters():
    parent = tiny("M-M-M*-", vocab=64)
    plan = make_plan(
        parent,
        SearchSettings(
            budget=("70%",), multiple=8, min_keep=("attention=0%", "others=25%", "width=25%")
        ),
    )
    found = plan.largest(scored(parent), 10)
    assert [c.parameters for c in found] == sorted(plan.feasible.parameters.tolist(), reverse=True)[
        :10
    ]
    assert all(c.selection.student(parent).parameters == c.parameters for c in found)


def test_what_cannot_be_met_says_the_smallest_and_what_is_met_already_says_so():
    parent = tiny("M-M*-M-")
    with pytest.raises(UserError, match="No architecture") as caught:
        make_plan(parent, SearchSettings(budget=("2%",), multiple=8))
    # The widest space: a quarter of the Mamba and FFN blocks, a quarter of the width, no attention,
    # whole heads.
    smallest = shape_architecture(
        parent, shape_of(attention=0, mlp=1, mamba=1, intermediate=16, heads=8, hidden=32)
    )
    assert f"{smallest.parameters:,} parameters" in caught.value.allowed
    assert (
        make_plan(
            parent, SearchSettings(budget=(str(smallest.parameters),), multiple=8)
        ).feasible.count
        == 1
    )
    for enough in ("100%", "300%", "1TB", str(parent.parameters)):
        with pytest.raises(UserError, match="already") as caught:
            make_plan(parent, SearchSettings(budget=(enough,)))
        assert f"{parent.parameters:,}" in caught.value.allowed
