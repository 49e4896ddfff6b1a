"""Search where a family writes only whole layers of one size: grid, solver and local search keep to
it, and lose nothing.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import level_of, shape_of
from family_models import FORMS

from minipuzzle import families
from minipuzzle.arch import Rules
from minipuzzle.cost.pricing import pricing
from minipuzzle.errors import UserError
from minipuzzle.importance import random_scores
from minipuzzle.memory import Workload, resident
from minipuzzle.nas.choices import combinations, coupled, make_choices
from minipuzzle.nas.enumerate import enumerate_shapes, maximal
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.propose import instance, propose, state_of
from minipuzzle.nas.refine import neighbours
from minipuzzle.nas.select import candidates, damage, ranked_layers, select
from minipuzzle.nas.solve import solve
from minipuzzle.settings import Limits, SearchSettings
from minipuzzle.space import Shape, bounds, levels, shape_architecture

LEVEL = level_of(attention=0, others=0, width=0.5, hidden=0.5)
WORKLOAD = Workload(context=64)


def parent_of(name):
    return families.find(name).architecture(
        {**next(iter(FORMS[name].values())), "num_hidden_layers": 4}
    )


def brute(parent, space, limits):
    """{shape: costs} of all shapes whose feed-forwards are as many as their mixers, priced one at a
    time.
    """
    ranges = [range(low, high + 1) for low, high in space.counts.values()]
    found = {}
    for *numbers, hidden in itertools.product(*ranges, *space.sizes.values(), space.hidden):
        counts = dict(zip(space.counts, numbers, strict=False))
        sizes = dict(zip(space.sizes, numbers[len(counts) :], strict=True))
        a, f, m = (counts.get(kind, 0) for kind in ("attention", "mlp", "mamba"))
        shape = Shape.of(counts, sizes, hidden)
        made = shape_architecture(parent, shape)
        size = resident(made, WORKLOAD).total
        if f == a + m and made.parameters <= limits.parameters and size <= limits.bytes:
            found[shape] = (made.parameters, size)
    return found


@pytest.mark.parametrize("name", ["llama", "bamba", "granitemoehybrid"])
def test_the_grid_has_whole_layers_and_is_what_brute_force_finds(name):
    parent = (
        parent_of(name)
        if name != "granitemoehybrid"
        else families.find(name).architecture(FORMS[name]["multipliers"])
    )
    space = bounds(parent, LEVEL, SearchSettings(multiple=8, mamba_heads=True, hidden_size=True))
    limits = Limits(
        parameters=int(0.8 * parent.parameters), bytes=int(0.9 * resident(parent, WORKLOAD).total)
    )
    prices = pricing(parent, limits, WORKLOAD)
    feasible, expected = enumerate_shapes(space, prices), brute(parent, space, limits)
    shapes = [feasible.shape(i) for i in range(feasible.count)]
    assert {
        s: (p, b) for s, p, b in zip(shapes, feasible.parameters, feasible.bytes, strict=True)
    } == expected
    assert space.points == len(brute(parent, space, Limits(parameters=10**12, bytes=10**12)))
    best = maximal(feasible, space, prices)
    for shape, alone in zip(shapes, best, strict=True):
        larger = [
            s
            for s in expected
            if s != shape and all(n >= shape.plain()[name] for name, n in s.plain().items())
        ]
        assert alone == (not larger)
    scores = random_scores(parent, 0)
    found = candidates(parent, scores, feasible, best, 10**6)
    for candidate in found:
        student = candidate.selection.student(parent)
        parent.rules.check(parent.blocks, candidate.selection.kept_blocks, student.blocks)
        assert candidate.parameters == student.parameters
        assert candidate.damage == pytest.approx(damage(parent, scores, candidate.selection))
    assert [c.damage for c in found[: int(best.sum())]] == sorted(
        c.damage for c in found[: int(best.sum())]
    )


def test_the_best_layers_stay():
    parent = parent_of("llama")
    scores = replace(
        random_scores(parent, 0), blocks=np.array([9.0, 0.0, 1.0, 1.0, 0.0, 8.0, 3.0, 3.0])
    )
    assert ranked_layers(parent, scores) == {"attention": [(0, 1), (4, 5), (6, 7), (2, 3)]}
    shape = shape_of(attention=2, mlp=2, mamba=0, intermediate=48, heads=0, hidden=parent.hidden)
    assert select(parent, scores, shape).kept_blocks == [0, 1, 4, 5]


def made(parent, seed=0, **settings):
    options = SearchSettings(budget=("75%",), multiple=16, **settings)
    space = bounds(parent, LEVEL, options, grid=False)
    prices = pricing(parent, Limits(parameters=int(0.75 * parent.parameters)), WORKLOAD)
    scores = random_scores(parent, seed)
    choices = make_choices(
        parent, scores, space, options, prices.of, prices.limits - prices.base, prices.names
    )
    return scores, options, space, prices, choices


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["llama", "bamba"])
def test_the_solver_is_brute_force_over_whole_layers(name, seed):
    parent = parent_of(name)
    scores, options, space, prices, choices = made(
        parent, seed, mamba_heads=name == "bamba", kv_heads=name == "llama"
    )
    best = min(choices.predicted(s) for s in combinations(choices) if choices.fits(s))
    found = state_of(choices, solve(instance(choices)))
    assert choices.predicted(found) == pytest.approx(best)
    assert coupled(choices, found)
    around = [
        found,
        *neighbours(choices, found),
        *propose(parent, scores, space, options, prices, 4).states,
    ]
    assert len(around) > 4
    for state in around:
        selection = choices.selection(state)
        parent.rules.check(parent.blocks, selection.kept_blocks, selection.student(parent).blocks)


def test_more_is_possible_without_rules():
    parent = parent_of("llama")
    *_, bound = made(parent, 1)
    *_, free = made(replace(parent, rules=Rules()), 1)
    assert len(combinations(free)) > len(combinations(bound))
    assert solve(instance(free)).damage < solve(instance(bound)).damage


def test_mamba_heads_go_only_as_whole_expansions():
    parent = parent_of("mamba2")
    level, options = levels([])[1], SearchSettings(multiple=8, mamba_heads=True)
    assert bounds(parent, level, options).sizes["heads"] == (4, 8)
    free = replace(parent, rules=Rules())
    assert bounds(free, level, options).sizes["heads"] == (4, 6, 8)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "qwen2",
            {"kv_heads": True},
            ["search.kv_heads", "q_heads, kv_heads, hidden keep their size"],
        ),
        (
            "qwen2",
            {"hidden_size": True},
            ["search.hidden_size", "q_heads, kv_heads, hidden keep their size"],
        ),
        (
            "mamba2",
            {"hidden_size": True},
            ["search.hidden_size", "whole multiple of the hidden size"],
        ),
        (
            "mamba2",
            {"per_block_heads": True, "mamba_heads": True},
            ["search.per_block_heads", "one size"],
        ),
        (
            "granitemoehybrid",
            {"mamba_heads": True},
            ["search.mamba_heads", "whole multiple of the hidden size"],
        ),
    ],
)
def test_options_that_ask_for_what_cannot_be_written(name, options, says):
    parent = (
        parent_of(name)
        if name != "granitemoehybrid"
        else families.find(name).architecture(
            {**FORMS[name]["multipliers"], "mamba_expand": 1, "mamba_d_head": 4}
        )
    )
    with pytest.raises(UserError) as caught:
        make_plan(parent, SearchSettings(budget=("80%",), multiple=8, **options))
    for words in says:
        assert words in str(caught.value)
