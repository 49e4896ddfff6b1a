"""The hidden size as an axis of the grid: released shapes are in it, priced exactly; a narrower
model runs everywhere.
"""

from pathlib import Path

import numpy as np
import pytest
from conftest import level_of, shape_of, tiny

from minipuzzle.checkpoint.config import read_config
from minipuzzle.cost.latency import LatencyTable, model_ms
from minipuzzle.cost.pricing import pricing
from minipuzzle.cost.roofline import Roofline
from minipuzzle.errors import UserError
from minipuzzle.importance import random_scores
from minipuzzle.memory import Workload, resident
from minipuzzle.nas.choices import combinations
from minipuzzle.nas.enumerate import enumerate_shapes, times
from minipuzzle.nas.grid import grid
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.propose import front, propose_each
from minipuzzle.nas.select import damage, select
from minipuzzle.settings import Generation, Limits, Recipe, SearchSettings, TimeLimit
from minipuzzle.settings.recipe_file import load_recipe
from minipuzzle.space import bounds, levels, shape_architecture

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
RELEASED = {
    "nemotron-h-4b": (
        "nemotron-h-8b",
        shape_of(attention=4, mlp=24, mamba=24, intermediate=12288, heads=112, hidden=3072),
    ),
    "nemotron-nano-9b": (
        "nemotron-nano-12b-v2",
        shape_of(attention=4, mlp=25, mamba=27, intermediate=15680, heads=128, hidden=4480),
    ),
}


@pytest.mark.parametrize(
    ("name", "parent", "shape"), [(name, *of) for name, of in RELEASED.items()]
)
def test_the_released_shape_is_in_the_recipes_space_with_its_exact_cost(name, parent, shape):
    settings = load_recipe(ROOT / "recipes" / f"{name}.yaml", Recipe).search
    plan = make_plan(read_config(EXAMPLES / parent)[1], settings)
    shapes = [plan.feasible.shape(i) for i in range(plan.feasible.count)]
    at = shapes.index(shape)
    released = read_config(EXAMPLES / {"nemotron-nano-9b": "nemotron-nano-9b-v2"}.get(name, name))[
        1
    ]
    assert plan.feasible.parameters[at] == released.parameters
    assert plan.feasible.bytes[at] == resident(released, plan.prices.workload).total
    if name == "nemotron-h-4b":
        assert plan.is_maximal[at]
        assert plan.maximal()[0].parameters == released.parameters


def test_minitron_ssms_grid_of_sizes():
    """arXiv:2504.11409: hidden 3072-4096, FFN 9984-21504 (all its candidates' are multiples of
    768), heads 64-128.
    """
    parent = read_config(EXAMPLES / "nemotron-h-8b")[1]
    level = level_of(attention=1, others=1, width=0.46, hidden=0.75)
    space = bounds(parent, level, SearchSettings(multiple=768, mamba_heads=True, hidden_size=True))
    assert space.hidden == (3072, 3328, 3584, 3840, 4096)
    assert space.sizes["heads"] == tuple(range(64, 129, 8))
    assert space.sizes["intermediate"] == tuple(range(9984, 21505, 768))
    assert bounds(parent, level, SearchSettings(multiple=768, mamba_heads=True)).hidden == (4096,)
    settings = SearchSettings(
        budget=("4.5B",),
        multiple=768,
        mamba_heads=True,
        hidden_size=True,
        min_keep=("attention=100%", "others=100%", "width=46%", "hidden=75%"),
    )
    feasible = make_plan(parent, settings).feasible
    fit = {tuple(row) for row in feasible.grid.points[:, 3:].tolist()}
    assert {
        (12288, 112, 3072),
        (10752, 128, 3072),
        (9984, 112, 3328),
        (16128, 64, 3072),
    } <= fit  # table 1: #1, 2, 3, 23


def test_times_of_a_narrower_model_are_those_of_its_architecture():
    parent, work = (
        read_config(EXAMPLES / "nemotron-h-8b")[1],
        Generation(batch=8, prompt=4096, output=256),
    )
    asked = Limits(
        times=tuple(
            TimeLimit(phase=phase, ms=1e9, work=work) for phase in ("prefill", "decode", "total")
        )
    )
    prices = pricing(parent, asked, Workload(context=4096), Roofline(device="h100"))
    space = bounds(parent, levels([])[0], SearchSettings(multiple=1024, hidden_size=True))
    whole = grid(space)
    shapes = whole.where(np.arange(0, len(whole), 301))
    assert len(set(shapes.column("hidden").tolist())) == len(space.hidden)
    for index, took in enumerate(times(shapes, prices)):
        made = shape_architecture(parent, shapes.shape(index))
        expected = [model_ms(prices.timing, made, t.phase, work) for t in asked.times]
        assert took.tolist() == pytest.approx(expected, rel=1e-9)
    assert enumerate_shapes(space, prices).count == space.points


def test_damage_of_a_narrower_model_is_the_share_of_the_scores_that_goes():
    parent = tiny("M-M*-M-")
    scores = random_scores(parent, 0)
    shape = shape_of(attention=1, mlp=3, mamba=3, intermediate=64, heads=8, hidden=24)
    selection = select(parent, scores, shape)
    gone = sorted(set(range(32)) - set(selection.hidden))
    share = (scores.hidden[gone] ** 2).sum() / (scores.hidden**2).sum()
    assert max(scores.hidden[gone]) <= min(scores.hidden[list(selection.hidden)])
    assert damage(parent, scores, selection) == pytest.approx(share * scores.blocks.sum())


@pytest.mark.parametrize("seed", range(6))
def test_the_solver_takes_the_best_of_all_hidden_sizes(seed):
    """Against every choice of blocks at every hidden size, priced as the architecture it leaves."""
    parent, workload = tiny("M-*M-", vocab=64), Workload(context=100)
    scores = random_scores(parent, seed)
    limits = Limits(
        parameters=int(0.6 * parent.parameters), bytes=int(0.7 * resident(parent, workload).total)
    )
    prices, settings = (
        pricing(parent, limits, workload),
        SearchSettings(multiple=16, mamba_heads=True),
    )
    level = level_of(attention=0, others=0, width=0.5, hidden=0.5)
    space = bounds(
        parent, level, SearchSettings(multiple=32, mamba_heads=True, hidden_size=True), grid=False
    )
    each = propose_each(parent, scores, space, settings, prices, 3)
    assert [len(p.choices.hidden or range(32)) for p in each] == [16, 24, 32]
    best = {}
    for proposals in each:
        choices = proposals.choices
        for state in combinations(choices):
            selection = choices.selection(state)
            student = selection.student(parent)
            fits = (
                student.parameters <= limits.parameters
                and resident(student, workload).total <= limits.bytes
            )
            assert fits == choices.fits(state)
            if fits:
                best[student.hidden] = min(
                    best.get(student.hidden, 1e9), damage(parent, scores, selection)
                )
    assert [p.choices.predicted(p.states[0]) for p in each] == pytest.approx(
        [best[h] for h in (16, 24, 32)]
    )
    names = [
        c.name
        for p, first in zip(each, (1, 2, 3), strict=True)
        for c in p.candidates(lambda a: 0, first)
    ]
    assert names == ["s001", "s002", "s003"]
    points = [(*row.cost, row.damage) for row in front(each)]
    assert not any(
        a != b and all(x <= y for x, y in zip(a, b, strict=True)) and a[-1] < b[-1]
        for a in points
        for b in points
    )
    assert len(points) > 12  # of 12 at each hidden size


def refusal(settings, timing=None, parent=None):
    with pytest.raises(UserError) as caught:
        make_plan(
            parent or tiny(), SearchSettings(multiple=8, hidden_size=True, **settings), timing
        )
    return str(caught.value)


def test_what_cannot_choose_or_price_a_hidden_size_says_so():
    table = LatencyTable(meta={"device": "test", "dtype": "float32", "date": "today"})
    assert "none of narrower ones" in refusal({"budget": ("1.2x",)}, table)
    parent = tiny()
    scores = random_scores(parent, 0)
    scores = type(scores)(blocks=scores.blocks, meta={}, widths=scores.widths)
    with pytest.raises(UserError, match="none for hidden channels"):
        select(
            parent,
            scores,
            shape_of(attention=1, mlp=3, mamba=3, intermediate=64, heads=8, hidden=16),
        )
    with pytest.raises(UserError, match="No architecture") as caught:
        make_plan(parent, SearchSettings(budget=("2%",), multiple=8))
    assert "add search.mamba_heads or search.hidden_size" in caught.value.next
    smallest = shape_architecture(
        parent, shape_of(attention=0, mlp=1, mamba=1, intermediate=16, heads=8, hidden=8)
    )
    assert f"{smallest.parameters:,} parameters" in refusal({"budget": ("2%",)})
