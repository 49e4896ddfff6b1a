"""What a kind declares of its widths is all that the search asks: for kinds with two widths or
none, which no file of minipuzzle knows.
"""

from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny
from new_kinds import Lanes, Still
from pencil import best

from minipuzzle.arch import Architecture, Multiple, Rules, Selection
from minipuzzle.arch.narrow import kept, offered
from minipuzzle.cost.pricing import pricing
from minipuzzle.errors import UserError
from minipuzzle.kinds import KINDS, Block, Mamba2
from minipuzzle.memory import Workload
from minipuzzle.nas.choices import combinations, coupled, make_choices
from minipuzzle.nas.damage import size_damage
from minipuzzle.nas.enumerate import enumerate_shapes, maximal
from minipuzzle.nas.fit import misfit
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.propose import instance, propose, state_of
from minipuzzle.nas.refine import _moves, neighbours, refine
from minipuzzle.nas.select import candidates, damage, select
from minipuzzle.nas.solve import solve
from minipuzzle.scores import Scores
from minipuzzle.settings import Limits, SearchSettings
from minipuzzle.space import bounds, levels, shape_architecture


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The kinds, as long as they are tested."""
    for kind in (Lanes, Still):
        monkeypatch.setitem(KINDS, kind.kind, kind)


WORK = Workload(context=50)


def parent_of():
    twofold, still = Lanes(hidden=32), Still(hidden=32)
    blocks = (twofold, still, *tiny("M-").blocks, twofold, still)
    return Architecture(vocab_size=40, hidden=32, blocks=blocks)


def scored(parent, seed=0):
    rng = np.random.default_rng(seed)
    widths = {}
    for i, block in enumerate(parent.blocks):
        for name, shape in block.score_shapes.items():
            widths.setdefault(name, {})[i] = rng.random(shape)
    blocks = rng.random(len(parent.blocks))
    return Scores(blocks=blocks, widths=widths, hidden=rng.random(parent.hidden), meta={})


def problem(share=0.6, seed=0, **settings):
    parent = parent_of()
    options = SearchSettings(multiple=2, mamba_heads=True, **settings)
    limits = Limits(parameters=int(share * parent.parameters))
    return parent, scored(parent, seed), options, pricing(parent, limits, WORK)


def test_the_grid_of_two_widths_and_of_none_is_what_brute_force_finds():
    parent, scores, options, prices = problem()
    space = bounds(parent, levels([])[1], options)
    assert space.counts == {"mlp": (1, 1), "mamba": (1, 1), "twofold": (1, 2), "still": (0, 2)}
    assert space.sizes["lanes"] == (4, 6)
    assert space.sizes["depth"] == (4, 6, 8)
    feasible = enumerate_shapes(space, prices)
    every = enumerate_shapes(space, pricing(parent, Limits(), WORK))
    assert every.count == space.points == 2 * 3 * 17 * 3 * 2 * 3
    fitting = []
    for i in range(every.count):
        made = shape_architecture(parent, every.shape(i))
        assert every.parameters[i] == made.parameters
        if made.parameters <= prices.requested.parameters:
            fitting.append(every.shape(i))
    assert [feasible.shape(i) for i in range(feasible.count)] == fitting
    peaks = maximal(feasible, space, prices)
    for index in range(0, feasible.count, 7):
        shape = fitting[index].plain()
        others = [s.plain() for s in fitting if s.plain() != shape]
        larger = [s for s in others if all(s[name] >= shape[name] for name in shape)]
        assert peaks[index] == (not larger)
    found = candidates(parent, scores, feasible, peaks, 10**6)
    assert len(found) == feasible.count
    for candidate in found[::5]:
        student = candidate.selection.student(parent)
        assert candidate.parameters == student.parameters
        assert candidate.damage == pytest.approx(damage(parent, scores, candidate.selection))
    most = int(peaks.sum())
    assert [c.damage for c in found[:most]] == sorted(c.damage for c in found[:most])
    few = candidates(parent, scores, feasible, peaks, most // 2)
    assert [c.selection for c in few] == [c.selection for c in found[: most // 2]]


def test_what_a_block_of_two_widths_keeps_and_what_that_is_predicted_to_do():
    parent, scores, *_ = problem()
    block, of = parent.blocks[0], scores.of(0)
    shape = bounds(parent, levels([])[2], SearchSettings(multiple=2))
    assert kept(block, of, {}) == {}
    found = kept(block, of, {"lanes": 4, "depth": 4})
    strength = np.linalg.norm(of["depths"], axis=0)
    assert found["depth"] == best(strength, 4)
    assert found["lanes"] == (
        *best(of["lanes"][:3], 2),
        *(3 + lane for lane in best(of["lanes"][3:], 2)),
    )
    lanes, depth = block.widths
    parts = [size_damage(parent, scores, 0, lanes, 4), size_damage(parent, scores, 0, depth, 4)]
    assert min(parts) > 0
    selection = Selection(blocks=(found, *({},) * (len(parent.blocks) - 1)))
    assert damage(parent, scores, selection) == pytest.approx(sum(parts))
    assert selection.student(parent).blocks[0] == replace(block, lanes=4, depth=4)
    assert set(shape.sizes) == {"intermediate", "heads", "lanes", "depth"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("uniform", [False, True])
def test_the_solver_over_two_widths_is_brute_force(seed, uniform):
    parent, scores, options, prices = problem(0.7, seed, uniform=uniform)
    parent = replace(parent, blocks=parent.blocks[:1] + parent.blocks[4:])
    scores = scored(parent, seed)
    prices = pricing(parent, Limits(parameters=int(0.7 * parent.parameters)), WORK)
    space = bounds(parent, levels([])[1], options, grid=False)
    left = prices.limits - prices.base
    choices = make_choices(parent, scores, space, options, prices.of, left, prices.names)
    lanes, depths = zip(*(choices.couplings[i] for i in (0, 1)), strict=True)
    assert len(set(lanes)) == 1  # all blocks have as many
    assert (len(set(depths)) == 1) == uniform
    states = combinations(choices)
    # The two twofold blocks: none, one of 2 x 3 sizes, or both of equally many lanes.
    assert len(states) == 2 * (1 + 2 * 6 + (6 if uniform else 2 * 3 * 3))
    for state in states:
        selection = choices.selection(state)
        assert choices.state(selection) == state
        student = selection.student(parent)
        assert (choices.cost(state) + prices.base)[0] == student.parameters
        assert choices.predicted(state) == pytest.approx(damage(parent, scores, selection))
        sizes = {b.lanes for b in student.blocks if b.kind == Lanes.kind}
        assert len(sizes) <= 1
    whole = Selection(blocks=({"depth": tuple(range(8))}, {}, {}))
    assert choices.state(whole) == (0, 0, 0)
    for other in ({"depth": tuple(range(7))}, {"banks": (0, 1)}):  # no option; not searched
        assert choices.state(Selection(blocks=(other, {}, {}))) is None
    fitting = [s for s in states if choices.fits(s)]
    found = state_of(choices, solve(instance(choices)))
    assert coupled(choices, found)
    assert choices.predicted(found) == pytest.approx(min(map(choices.predicted, fitting)))
    around = neighbours(choices, found)
    assert around
    assert all(choices.fits(s) and coupled(choices, s) for s in around)
    worst = max(fitting, key=choices.predicted)
    end = refine(choices, worst, choices.predicted(worst), choices.predicted, tries=10**4)
    assert end.settled
    assert end.value <= min(map(choices.predicted, neighbours(choices, end.state)))


def made(parent, **settings):
    """The choices of a parent whose budget everything meets."""
    options = SearchSettings(multiple=2, mamba_heads=True, **settings)
    prices = pricing(parent, Limits(parameters=10 * parent.parameters), WORK)
    space = bounds(parent, levels([])[1], options, grid=False)
    left = prices.limits - prices.base
    return make_choices(parent, scored(parent), space, options, prices.of, left, prices.names)


def test_each_of_two_widths_is_a_move_of_its_own():
    choices = made(parent_of())
    start = tuple(len(options) - 1 for options in choices.options)
    assert choices.options[0][start[0]] == (4, 4)
    moves = [
        tuple(None if n is None else choices.options[i][n] for i, n in enumerate(s) if i in (0, 4))
        for s, _ in _moves(choices, start)
    ]
    assert ((6, 4), (6, 4)) in moves  # lanes of both blocks
    assert ((4, 6), (4, 4)) in moves  # the depth of one
    assert ((4, 4), (4, 6)) in moves
    assert not {((6, 4), (4, 4)), ((6, 6), (6, 4)), ((4, 8), (4, 4))} & set(moves)
    gone = (None, *start[1:4], choices.numbers[4][6, 6], start[5])
    back = next(s for s, _ in _moves(choices, gone) if None not in s)
    assert choices.options[0][back[0]] == (6, 8)  # as many lanes as the block that is kept


def test_sizes_that_files_cannot_say_are_not_offered_alone_or_together():
    """lanes x depth is a multiple of 32: 8 x 8, 8 x 4 and 4 x 8 are, 4 x 4 is not."""
    rule = Multiple(axes=("lanes", "depth"), of="hidden", sentence="lanes x depth stays")
    block = Lanes(hidden=32, lanes=8)
    lanes, depth = block.widths
    assert offered(block, lanes, Rules(), 0.0, 2) == (2, 4, 6, 8)
    assert offered(block, lanes, Rules(fixed=("lanes",)), 0.0, 2) == (8,)
    rules = Rules(multiples=(rule,))
    assert offered(block, lanes, rules, 0.0, 2) == offered(block, depth, rules, 0.0, 2) == (4, 8)
    parent = Architecture(vocab_size=40, hidden=32, blocks=(block, block), rules=rules)
    choices = made(parent)
    assert choices.options == (((8, 8), (8, 4), (4, 8)),) * 2
    small = (1, 1)
    assert not [s for s, _ in _moves(choices, small) if s[0] == 2 and s[1] == 2]
    space = bounds(parent, levels([])[1], SearchSettings(multiple=2))
    feasible = enumerate_shapes(space, pricing(parent, Limits(), WORK))
    pairs = {tuple(row) for row in feasible.grid.points[:, 1:3].tolist()}
    assert pairs == {(8, 8), (8, 4), (4, 8)}
    peaks = maximal(feasible, space, pricing(parent, Limits(parameters=10**9), WORK))
    assert [feasible.shape(i).plain()["lanes"] for i in np.flatnonzero(peaks)] == [8]


def test_a_search_of_such_kinds_from_its_settings():
    parent = parent_of()
    settings = SearchSettings(budget=("60%",), multiple=2, min_keep=("twofold=50%", "still=0%"))
    plan = make_plan(parent, settings)
    names = {"mlp", "mamba", "twofold", "still", "intermediate", "heads", "lanes", "depth"}
    assert set(plan.summary().bounds) == {*names, "hidden", "paired"}
    assert set(plan.maximal()[0].shape) == {*names, "hidden"}
    scores = scored(parent)
    assert misfit(scores, parent) == ""
    without = replace(scores, widths={**scores.widths, "depths": {}})
    assert "depths of block 0" in misfit(without, parent)
    proposals = propose(parent, scores, plan.widest(settings), settings, plan.prices, 4)
    for made_ in proposals.candidates(plan.bytes):
        assert made_.parameters <= plan.limits.parameters
    with pytest.raises(UserError, match="none for lanes"):
        select(parent, replace(scores, widths={}), plan.feasible.shape(0))


def test_names_that_are_taken_are_refused_where_a_kind_is_declared():
    for taken in (
        {"kind": "own", "letter": "M"},
        {"kind": "depth", "letter": "Q"},
        {"kind": "own", "letter": "Q", "widths": Mamba2.widths},
        {"kind": "own", "letter": "Q", "widths": (replace(Lanes.widths[0], axis="own"),)},
    ):
        with pytest.raises(TypeError, match="names that are taken"):
            type("Own", (Block,), {"widths": (), **taken})
    assert "own" not in KINDS
