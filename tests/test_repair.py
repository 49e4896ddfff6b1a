"""Repairs of what does not fit, by pencil: each step pays the least damage for what it frees."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny
from search_problems import LEVEL, WORK, problem

from minipuzzle.cost.pricing import pricing
from minipuzzle.nas.choices import combinations, make_choices, whole
from minipuzzle.nas.enumerate import enumerate_shapes, maximal
from minipuzzle.nas.refine import repair
from minipuzzle.settings import Limits, SearchSettings
from minipuzzle.space import bounds


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
        requested=Limits(parameters=prices.requested.parameters),
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
