"""Small parts of the search, by pencil and brute force: damage, the front, limits of counts, hidden
sizes.
"""

import itertools
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import level_of, tiny
from search_problems import WORK, problem

from minipuzzle.arch.narrow import kept
from minipuzzle.cost.pricing import pricing
from minipuzzle.errors import UserError
from minipuzzle.importance import random_scores
from minipuzzle.memory import resident
from minipuzzle.nas.choices import combinations
from minipuzzle.nas.damage import block_damage, drop_damage, hidden_damage
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.program import Instance
from minipuzzle.nas.propose import candidate, front, propose, propose_each
from minipuzzle.nas.select import kept_hidden
from minipuzzle.nas.solve import Infeasible, solve
from minipuzzle.scores import Scores
from minipuzzle.settings import MOST, Limits, SearchSettings, parse_budget, parse_count
from minipuzzle.space import bounds, levels


def test_the_front_is_the_least_damage_at_each_limit():
    """Each row is the best of all states within its limit, none is beaten, and costs are those of
    whole models.
    """
    parent, scores, space, options, prices = problem()
    each = propose_each(parent, scores, space, options, prices, 2)
    choices = each[0].choices
    states = combinations(choices)
    costs = np.array([choices.cost(s) + prices.base for s in states])
    harms = np.array([choices.predicted(s) for s in states])
    rows = front(each)
    assert 4 <= len(rows) <= 12
    for row in rows:
        fits = (costs <= np.array(row.limit) + 1e-6).all(axis=1)
        assert row.damage == pytest.approx(harms[fits].min(), abs=1e-4 * harms.max())
        at = np.flatnonzero(np.isclose(costs, row.cost).all(axis=1))
        assert np.isclose(harms[at], row.damage).any()
        student = choices.selection(states[at[0]]).student(parent)
        assert row.cost == pytest.approx([student.parameters, resident(student, WORK).total])
    for a, b in itertools.permutations(rows, 2):
        cheaper = all(x <= y for x, y in zip(a.cost, b.cost, strict=True))
        assert not (cheaper and a.damage < b.damage)
    assert rows[-1].damage == 0
    all_of_it = [parent.parameters, resident(parent, WORK).total]
    assert rows[-1].cost == pytest.approx(all_of_it)
    limits = np.array([row.limit for row in rows])
    empty = np.array([costs[:, k].min() for k in range(2)])
    assert limits[-1].tolist() == pytest.approx(all_of_it)
    assert (limits[0] >= empty + 0.29 * (np.array(all_of_it) - empty)).all()


def test_the_front_over_hidden_sizes_keeps_the_best_of_all():
    parent, scores, space, options, prices = problem("M-*", hidden=True)
    each = propose_each(parent, scores, space, options, prices, 3)
    assert len(each) == len(space.hidden) == 3
    rows = front(each)
    alone = [row for proposals in each for row in front([proposals])]
    assert len(rows) < len(alone)
    for row in rows:
        better = [o for o in alone if o.damage < row.damage and all(np.array(o.cost) <= row.cost)]
        assert not better


def test_proposals_are_named_in_order_and_priced():
    parent, scores, space, options, prices = problem()
    proposals = propose(parent, scores, space, options, prices, 3)
    found = proposals.candidates(lambda made: resident(made, WORK).total, first=4)
    assert [c.name for c in found] == ["s004", "s005", "s006"]
    assert {c.origin for c in found} == {"solver"}
    for made, state in zip(found, proposals.states, strict=True):
        student = made.selection.student(parent)
        assert (made.parameters, made.bytes) == (student.parameters, resident(student, WORK).total)
        assert made.damage == pytest.approx(proposals.choices.predicted(state))
    one = candidate(proposals.choices, proposals.states[0], "x", "test", lambda made: 7)
    assert (one.name, one.origin, one.bytes) == ("x", "test", 7)


def test_hidden_sizes_that_cannot_fit_are_left_out_and_none_is_an_error():
    parent, scores, space, options, _ = problem("M-*", hidden=True)
    bare = replace(
        parent, blocks=()
    ).parameters  # embedding, head and norm at the parent's own hidden size
    each = propose_each(
        parent, scores, space, options, pricing(parent, Limits(parameters=bare - 1), WORK), 3
    )
    assert [len(p.choices.hidden) for p in each] == [16, 24]
    tight = pricing(parent, Limits(parameters=10), WORK)
    with pytest.raises(Infeasible):
        propose_each(parent, scores, space, options, tight, 3)


def test_the_largest_are_numbered_from_one():
    parent = tiny("M-M*-", vocab=64)
    plan = make_plan(parent, SearchSettings(budget=("80%",), multiple=16))
    assert [c.name for c in plan.largest(random_scores(parent, 0), 3)] == ["l001", "l002", "l003"]


def test_damage_of_hidden_channels_by_pencil():
    scores = Scores(
        blocks=np.array([2.0, 3.0]), widths={}, hidden=np.array([1.0, 3.0, 2.0]), meta={}
    )
    assert hidden_damage(scores, 3) == 0
    assert hidden_damage(scores, 2) == pytest.approx(5 * 1 / 14)
    assert hidden_damage(scores, 1) == pytest.approx(5 * (1 + 4) / 14)
    assert hidden_damage(replace(scores, hidden=None), 1) == 0
    assert hidden_damage(replace(scores, hidden=np.zeros(3)), 1) == 0


def test_damage_of_layers_is_shared_out():
    """Alone 1 + 2 and 5 + 4, together 7 and 6: the difference of 4 and of -3, half to each."""
    scores = Scores(blocks=np.array([1.0, 2.0, 5.0, 4.0]), widths={}, meta={})
    assert drop_damage(scores).tolist() == [1, 2, 5, 4]
    assert drop_damage(replace(scores, layers=np.array([7.0, 6.0]))).tolist() == [3, 4, 3.5, 2.5]


def test_what_is_lost_with_the_smaller_scores():
    parent = tiny("-M*", intermediate=4, vocab=64)
    rng = np.random.default_rng(0)
    scores = Scores(
        blocks=np.ones(3),
        widths={
            "intermediate": {0: np.array([1.0, 4.0, 2.0, 3.0])},
            "head_channels": {1: rng.random((8, 8))},
            "q_heads": {2: np.array([3.0, 4.0, 1.0, 2.0])},
        },
        meta={},
    )
    lost_of = [
        block.searched[0].lost(block, scores.of(i)[block.searched[0].score])
        for i, block in enumerate(parent.blocks)
    ]
    assert lost_of[0].tolist() == pytest.approx([1, 14 / 30, 5 / 30, 1 / 30, 0])
    assert lost_of[2].tolist() == pytest.approx([1, 5 / 30, 0])  # KV heads with norms 5 and sqrt(5)
    heads = (scores.widths["head_channels"][1] ** 2).sum(1).reshape(2, 4)
    best = -np.sort(-heads, axis=1)
    lost = lost_of[1]
    for size in (2, 4, 6):  # a head of each of the two groups at a time
        assert lost[size] == pytest.approx(1 - best[:, : size // 2].sum() / heads.sum())
    assert (lost[0], lost[8]) == (1, 0)
    assert block_damage(parent, scores, 0, {"intermediate": 2}) == pytest.approx(5 / 30)
    assert block_damage(parent, scores, 0, {"intermediate": 4}) == 0

    def narrowed(scores, i, **sizes):
        return kept(parent.blocks[i], scores.of(i), sizes)

    assert narrowed(scores, 0, intermediate=2) == {"intermediate": (1, 3)}
    assert narrowed(scores, 2, kv_heads=1) == {"kv_heads": (0,), "q_heads": (0, 1)}
    uncut = [narrowed(scores, 0, intermediate=4), narrowed(scores, 0)]
    uncut += [narrowed(scores, 1, heads=8), narrowed(scores, 1)]
    uncut += [narrowed(scores, 2, kv_heads=2), narrowed(scores, 2)]
    assert uncut == [{}] * 6
    without = replace(scores, widths={**scores.widths, "q_heads": {}})
    for ask in (narrowed, lambda s, i, **sizes: block_damage(parent, s, i, sizes)):
        with pytest.raises(UserError, match="none for KV heads"):
            ask(without, 2, kv_heads=1)
    assert kept_hidden(parent, scores, 32) is None
    with pytest.raises(UserError, match="hidden channels"):
        kept_hidden(parent, scores, 16)


def test_hidden_sizes_are_sixteenths_in_multiples():
    """1024 and more in multiples of 64, smaller ones of 8."""
    level = level_of(attention=0, others=0, width=0.5, hidden=0.75)

    def sizes(hidden):
        model = tiny("-", hidden=hidden)
        return bounds(model, level, SearchSettings(multiple=8, hidden_size=True)).hidden

    assert sizes(1024) == (768, 832, 896, 960, 1024)
    assert sizes(1016) == (824, 888, 952, 1016)  # 12 sixteenths are 762, which 760 falls short of
    assert sizes(4096) == (3072, 3328, 3584, 3840, 4096)
    with pytest.raises(UserError):
        levels(["width=100.5%"])
    assert [level.width for level in levels(["width=100%"])] == [1.0] * 3


def test_the_largest_count_that_is_believed():
    assert MOST == 10**18
    assert parse_count("1e18") == 10**18
    assert parse_budget(["1e18"]).parameters == 10**18
    for over in ("1.01e18", "1001e15"):
        with pytest.raises(UserError):
            parse_count(over)


def test_a_solver_out_of_time_is_given_more_and_then_says_so(monkeypatch):
    asked = []

    def stopped(objective, *, options, **_):
        asked.append(options["time_limit"])
        return SimpleNamespace(x=None, status=1)

    monkeypatch.setattr("minipuzzle.nas.solve.milp", stopped)
    one = Instance(
        damage=(np.array([0.0]),), costs=(np.array([[1.0]]),), limits=np.array([2.0]), names=("a",)
    )
    with pytest.raises(UserError, match="found nothing in its time"):
        solve(one, seconds=5.0)
    assert asked == [pytest.approx(5, abs=0.5), pytest.approx(60, abs=0.5)]
    with pytest.raises(UserError, match="found nothing in its time"):
        solve(one, seconds=1e-9)
    assert asked[2:] == [1.0, pytest.approx(60, abs=0.5)]
    monkeypatch.setattr(
        "minipuzzle.nas.solve.milp", lambda *_, **__: SimpleNamespace(x=None, status=2)
    )
    with pytest.raises(Infeasible):
        solve(one)


def test_the_levels_are_those_of_the_decisions_page():
    found = [
        (level.blocks["attention"], level.blocks["mamba"], level.width, level.hidden)
        for level in levels([])
    ]
    assert [level.blocks["mlp"] for level in levels([])] == [others for _, others, *_ in found]
    assert found == [(0.5, 0.83, 0.75, 0.75), (0.5, 0.5, 0.5, 0.5), (0.0, 0.25, 0.25, 0.25)]


def test_the_solver_leaves_standard_output_as_it_was(capfd):
    solve(
        Instance(
            damage=(np.array([0.0]),),
            costs=(np.array([[1.0]]),),
            limits=np.array([2.0]),
            names=("a",),
        )
    )
    print("to the output")
    print("to the errors", file=sys.stderr)
    assert capfd.readouterr() == ("to the output\n", "to the errors\n")
