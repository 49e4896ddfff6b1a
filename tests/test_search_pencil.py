"""Small parts of the search, by pencil and brute force: damage, the front, limits of counts, hidden
sizes, coupled layers.
"""

import itertools
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import level_of, shaken, tiny
from family_models import FORMS

from minipuzzle import families
from minipuzzle.arch import Selection
from minipuzzle.arch.narrow import kept
from minipuzzle.cost.pricing import pricing
from minipuzzle.errors import UserError
from minipuzzle.importance import random_scores
from minipuzzle.memory import Workload, resident
from minipuzzle.nas.choices import combinations, make_choices, whole
from minipuzzle.nas.damage import block_damage, drop_damage, hidden_damage
from minipuzzle.nas.enumerate import enumerate_shapes, maximal
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.propose import candidate, front, propose, propose_each
from minipuzzle.nas.refine import repair
from minipuzzle.nas.select import kept_hidden
from minipuzzle.nas.solve import Infeasible, Instance, solve
from minipuzzle.scores import Scores
from minipuzzle.settings import MOST, Limits, SearchSettings, parse_budget, parse_count
from minipuzzle.space import bounds, levels
from minipuzzle.training.objectives import (
    Objective,
    answers_only,
    check_vocabularies,
    distillation,
    next_token,
)

LEVEL = level_of(attention=0, others=0, width=0.5, hidden=0.5)
WORK = Workload(context=100)


def problem(pattern="M-*-", share=0.8, seed=0, hidden=False, parent=None, **settings):
    parent = parent or tiny(pattern, vocab=64)
    options = SearchSettings(
        budget=("80%",), multiple=16, mamba_heads=True, hidden_size=hidden, **settings
    )
    space = bounds(parent, LEVEL, options, grid=False)
    limits = Limits(
        parameters=int(share * parent.parameters), bytes=int(resident(parent, WORK).total)
    )
    return parent, random_scores(parent, seed), space, options, pricing(parent, limits, WORK)


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


def test_blocks_of_a_layer_go_together_in_the_solver():
    """Three blocks, two of which are one layer; by brute force over what is legal."""
    damage = (np.array([0.0, 1.0]), np.array([0.0, 5.0]), np.array([0.0, 2.5]))
    costs = tuple(np.array([[4.0], [0.0]]) for _ in range(3))
    free = Instance(damage=damage, costs=costs, limits=np.array([8.0]), names=("a",))
    assert solve(free).choices == (1, 0, 0)
    assert solve(replace(free, together=((0, 1),))).choices == (0, 0, 1)
    assert solve(replace(free, together=((0, 2),))).choices == (1, 0, 1)
    assert solve(replace(free, together=((0, 2, 1),), limits=np.array([11.0]))).choices == (1, 1, 1)


def test_a_familys_layers_reach_the_solver():
    parent = families.find("llama").architecture(
        {**next(iter(FORMS["llama"].values())), "num_hidden_layers": 3}
    )
    parent, scores, space, options, prices = problem(parent=parent, share=0.7)
    for state in propose(parent, scores, space, options, prices, 4).states:
        assert all((state[i] is None) == (state[i + 1] is None) for i in range(0, 6, 2))


@pytest.mark.parametrize("pattern", ["MM", "MMM", "MM-"])
def test_blocks_that_share_a_size_share_it_in_what_the_solver_finds(pattern):
    """Head scores that would have one block narrow and the other whole; by brute force over coupled
    states.
    """
    for seed in range(4):
        parent, scores, space, options, prices = problem(pattern, share=0.75, seed=seed)
        scores = replace(scores, blocks=np.array([9.0, 0.1, 4.0])[: len(pattern)])
        proposals = propose(parent, scores, space, options, prices, 1)
        choices, state = proposals.choices, proposals.states[0]
        assert (
            len(
                {
                    rung
                    for rung, block in zip(state, parent.blocks, strict=True)
                    if block.kind == "mamba"
                }
                - {None}
            )
            <= 1
        )
        assert choices.predicted(state) == pytest.approx(
            min(choices.predicted(s) for s in combinations(choices) if choices.fits(s))
        )


def test_what_fits_is_maximal_where_sizes_follow_one_another():
    """One group: heads 1, 2, 3, ...; a step up is one head."""
    parent = tiny("M-", heads=4, groups=1, vocab=64)
    space = bounds(parent, LEVEL, SearchSettings(multiple=1, mamba_heads=True))
    assert space.sizes["heads"] == (2, 3, 4)
    prices = pricing(parent, Limits(parameters=int(0.8 * parent.parameters)), WORK)
    feasible = enumerate_shapes(space, prices)
    best = maximal(feasible, space, prices)
    shapes = [feasible.shape(i) for i in range(feasible.count)]
    for shape, alone in zip(shapes, best, strict=True):
        larger = [
            o
            for o in shapes
            if o != shape and all(n >= shape.plain()[name] for name, n in o.plain().items())
        ]
        assert alone == (not larger)


@pytest.mark.parametrize("seed", range(4))
def test_the_first_step_of_a_repair_has_the_least_damage_for_what_it_frees(seed):
    """One step is enough; each step down or out by hand, with its damage over what it takes off the
    limits.
    """
    parent, scores, space, options, prices = problem("M-M-*-", share=0.985, seed=seed)
    prices = replace(
        prices,
        asked=Limits(parameters=prices.asked.parameters),
        names=prices.names[:1],
        limits=prices.limits[:1],
        base=prices.base[:1],
    )
    choices = make_choices(
        parent, scores, space, options, prices.of, prices.limits - prices.base, prices.names
    )
    start = whole(choices)
    over = float((choices.cost(start) - choices.limits)[0])
    options_of = {}
    for other in combinations(choices):
        changed = [i for i, (a, b) in enumerate(zip(start, other, strict=True)) if a != b]
        one_size = {choices.couplings[i] for i in changed}
        down = all(other[i] == 1 for i in changed) and len(one_size) == 1
        down = down and sum(u in one_size for u in choices.couplings) == len(changed)
        if down or (len(changed) == 1 and other[changed[0]] is None):
            left = max(0.0, float((choices.cost(other) - choices.limits)[0]))
            options_of[other] = (choices.predicted(other) - choices.predicted(start)) / (
                over - left
            )
    best = min(options_of, key=options_of.__getitem__)
    assert choices.fits(best)  # so that the repair shrinks once
    found = repair(choices, start, frozenset(), drops=True)
    grown = [i for i, (a, b) in enumerate(zip(best, found, strict=True)) if a != b]
    assert all(best[i] is not None and found[i] < best[i] for i in grown) or found == best
    assert choices.predicted(found) <= choices.predicted(best)


def test_a_repair_pays_the_least_damage_for_what_it_frees():
    """Narrowing the first block costs 1.0 and frees a little, the second 1.2 and frees all that is
    asked.
    """
    parent, scores, space, options, prices = problem("--", share=0.8)
    choices = make_choices(
        parent, scores, space, options, prices.of, prices.limits - prices.base, prices.names
    )
    step = choices.costs[0][0] - choices.costs[0][1]
    costs = (choices.costs[0].copy(), choices.costs[1].copy())
    costs[0][1:-1] = costs[0][0] - 0.1 * step
    costs[1][1:-1] = costs[1][0] - step
    damage = tuple(
        np.array([0.0, *[harm] * (len(c) - 2), 50.0])
        for harm, c in zip((1.0, 1.2), costs, strict=True)
    )
    limits = costs[0][0] + costs[1][0] - step
    choices = replace(choices, costs=costs, damage=damage, limits=limits)
    assert repair(choices, whole(choices), frozenset(), drops=True) == (0, 1)


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


def test_kv_heads_without_their_query_heads_are_no_selection():
    attention = tiny("*", q_heads=4, kv_heads=2)
    with pytest.raises(UserError, match="query heads"):
        Selection(blocks=({"kv_heads": (0,)},)).student(attention)
    with pytest.raises(UserError, match="query heads"):
        Selection(blocks=({"q_heads": (0, 1)},)).student(attention)
    student = Selection(blocks=({"kv_heads": (1,), "q_heads": (2, 3)},)).student(attention)
    assert (student.blocks[0].q_heads, student.blocks[0].kv_heads) == (2, 1)
    assert Selection(blocks=({"q_heads": (0, 2)},)).student(attention).blocks[0].q_heads == 2


def test_heads_of_each_group_are_equally_many():
    mamba = tiny("M", heads=8, groups=2)
    for uneven in ((0, 1, 4), (0, 4, 5, 6), (0, 1)):
        with pytest.raises(UserError, match="equally many"):
            Selection(blocks=({"heads": uneven},)).student(mamba)
    assert Selection(blocks=({"heads": (0, 5)},)).student(mamba).blocks[0].heads == 2


def test_cross_entropy_of_the_next_token_is_torchs():
    model = shaken(tiny("-", vocab=61))
    tokens = torch.randint(0, 61, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(tokens)[:, :-1].double().reshape(-1, 61)
    want = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].reshape(-1), reduction="sum")
    found = next_token(model, tokens, None)
    assert found.total.item() == pytest.approx(want.item(), rel=1e-5)
    assert found.tokens == 24


def test_vocabularies_must_be_the_same():
    check_vocabularies(100, 100)
    with pytest.raises(UserError, match="different vocabularies"):
        check_vocabularies(100, 101)


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


def test_a_selection_names_the_hidden_size_and_states_come_back():
    parent, scores, space, options, prices = problem(
        "M-*", hidden=True, per_block_heads=True, kv_heads=True
    )
    narrow = prices.at_hidden(24)
    of, left = lambda block: narrow.of(replace(block, hidden=24)), narrow.limits - narrow.base
    choices = make_choices(parent, scores, space, options, of, left, narrow.names, 24)
    assert choices.hidden_damage == pytest.approx(hidden_damage(scores, 24))
    assert len(set(choices.couplings[:2])) == 2
    for state in combinations(choices)[::7]:
        selection = choices.selection(state)
        assert len(selection.hidden) == 24
        assert choices.state(selection) == state
        assert (choices.cost(state) + narrow.base)[0] == selection.student(parent).parameters
    assert choices.state(replace(selection, hidden=None)) is None
    assert choices.options[2] == ((2,), (1,))  # KV heads that divide those of the parent
    assert (
        choices.state(Selection(blocks=({}, {"intermediate": (0,)}, {}), hidden=choices.hidden))
        is None
    )


def test_only_answers_are_trained_and_only_their_predictions_meet_the_head():
    model, teacher = shaken(tiny("M-", vocab=61), 0), shaken(tiny("M-", vocab=61), 1)
    tokens = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(0))
    segments = torch.tensor(
        [[0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3], [0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3]]
    )
    found = answers_only()(model, tokens, segments)
    with torch.no_grad():
        logits = model(tokens, segments // 2)[:, :-1].log_softmax(-1)
    picked = segments[:, 1:] % 2 == 1
    want = -logits.gather(-1, tokens[:, 1:, None])[..., 0][picked].double().sum()
    assert found.total.item() == pytest.approx(want.item(), rel=1e-5)
    assert found.tokens == int(picked.sum()) == 15
    with torch.no_grad():
        target = teacher(tokens, segments // 2)[:, :-1].log_softmax(-1)
    kl = (target.exp() * (target - logits)).sum(-1)[picked].double().sum()
    assert answers_only(teacher)(model, tokens, segments).total.item() == pytest.approx(
        kl.item(), rel=1e-4
    )
    with pytest.raises(ValueError, match="segments"):
        answers_only()(model, tokens, None)


def test_what_may_be_captured_says_so():
    assert next_token.capturable
    assert distillation(shaken(tiny("-", vocab=61))).capturable
    assert not answers_only().capturable
    assert not Objective.capturable


def test_cosine_of_other_hidden_sizes_is_refused():
    wide, narrow = shaken(tiny("-", vocab=61)), shaken(tiny("-", vocab=61, hidden=24))
    tokens = torch.zeros(1, 12, dtype=torch.int64)
    with pytest.raises(UserError, match="one size"):
        distillation(wide, "cosine")(narrow, tokens, None)
    assert distillation(wide, "cosine")(shaken(tiny("-", vocab=61), 1), tokens, None).tokens == 12
