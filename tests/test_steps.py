"""Several steps of cut and recovery, planned: budgets, shares of the tokens, what is refused."""

import json
from dataclasses import fields, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import tiny
from helpers import run
from hypothesis import given
from hypothesis import strategies as st

from minipuzzle.errors import UserError
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.steps import plan_steps, step_searches
from minipuzzle.nas.timing import load_timing
from minipuzzle.settings import Generation, Limits, Recipe, SearchSettings, TimeLimit, parse_budget
from minipuzzle.settings.recipe_file import build
from minipuzzle.settings.steps import STEPPED, shared, spaced
from minipuzzle.space import check_asked, fitted

PARENT = tiny(intermediate=256)
CONFIG = Path(__file__).parent.parent / "docs" / "examples" / "nemotron-h-8b"
TRAINING = {"tokens": 12_000, "batch": 4, "seed": 2**63 - 2}


def recipe(steps, **more):
    search = {"multiple": 8, **more.pop("search", {})}
    distill = {"short_tokens": 100, "training": TRAINING, **more.pop("distill", {})}
    data = {"length": 64}
    return build(
        Recipe,
        {"checkpoint": "x", "steps": steps, "search": search, "distill": distill, **more}
        | {"data": data},
        "r",
    )


def plan(steps, **more):
    return plan_steps(recipe(steps, **more), PARENT, None)


def test_shares_of_steps_are_of_the_original():
    found = plan(["95%", "90%", "300k"])
    limits = [int(Fraction(share, 100) * PARENT.parameters) for share in (95, 90)]
    assert [step.search.budget for step in found] == [(str(n),) for n in (*limits, 300_000)]
    assert [step.folder for step in found] == ["steps/1", "steps/2", "."]
    assert [step.parent for step in found] == ["", "steps/1/student", "steps/2/student"]
    assert [step.asked for step in found] == ["95%", "90%", "300k"]


def test_a_number_of_steps_is_spaced_evenly_by_ratio():
    found = plan(3, search={"budget": "85%"})
    limits = [PARENT.parameters, *(int(step.search.budget[0]) for step in found)]
    ratios = [after / before for before, after in pairwise(limits)]
    assert ratios == pytest.approx([0.85 ** (1 / 3)] * 3, rel=1e-4)
    assert limits[-1] == int(Fraction(85, 100) * PARENT.parameters)
    assert [step.asked for step in found] == ["94.7%", "89.7%", "85.0%"]
    # The same from wherever one stands: the rest of the way is the way.
    assert spaced(limits[1], limits[-1], 2) == pytest.approx(limits[2:], abs=1)


@given(
    total=st.integers(1, 10**12),
    weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6),
    unit=st.integers(1, 10**5),
)
def test_shares_of_tokens_are_whole_batches_and_add_up(total, weights, unit):
    if total < unit * sum(weights) / min(weights) * 2:
        return  # perhaps too few
    parts = shared(total, weights, unit)
    assert sum(parts) == total
    assert all(part % unit == 0 for part in parts[:-1])
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * weight / sum(weights)) <= unit + total * 1e-12


def test_all_steps_together_train_on_the_tokens_of_one():
    for more, share in ({}, (4096, 3840, 4064)), ({"step_shares": [1, 1, 2]}, (3072, 2816, 6112)):
        found = plan(["95%", "90%", "85%"], **more)
        tokens = [step.distill.training.tokens for step in found]
        assert tuple(tokens) == share
        per = 4 * 64
        assert sum(-(-n // per) for n in tokens) == -(-12_000 // per)  # optimiser's steps too
        assert sum(step.distill.short_tokens for step in found) == 100
    assert [step.distill.training.seed for step in found] == [2**63 - 2, 2**63 - 1, 0]


def test_each_step_has_its_own_answers_of_the_teacher():
    found = plan(["95%", "90%"], distill={"teacher_logits": "there"})
    assert [step.distill.teacher_logits for step in found] == ["there/step-1", "there/step-2"]


def test_other_limits_hold_at_the_last_step_and_are_of_the_original():
    search = {"budget": ["memory=95%", "1.05x"], "roofline": "h100", "method": "solver"}
    search |= {"mamba_heads": True, "per_block_heads": True}
    wanted = recipe(["95%", "90%"], search=search)
    timing = load_timing(wanted.search, Path("none"))
    first, last = step_searches(wanted.search, wanted.steps, PARENT, timing)
    assert first.budget == (str(int(Fraction(95, 100) * PARENT.parameters)),)
    limits = parse_budget(("90%", "memory=95%", "1.05x"), last.work)
    whole = make_plan(PARENT, wanted.search, timing).prices
    assert whole.requested.times[0].ms > 0
    found = parse_budget(last.budget, last.work).resolve(1)  # of any parent
    assert found.parameters == limits.resolve(PARENT.parameters, 0, lambda *_: 1.0).parameters
    assert (found.bytes, found.times) == (whole.requested.bytes, whole.requested.times)
    # A search wants blocks of one size to begin with: only the last may make them differ.
    assert (first.uniform, first.per_block_heads) == (True, False)
    assert (last.uniform, last.per_block_heads) == (False, True)


@pytest.mark.parametrize(
    ("vary", "left"),
    [
        ("heads", "heads"),
        ("heads=2,4,8", "heads=2,4"),
        ("heads=2..8/2", "heads=2..4/2"),
        ("heads=6..8", None),
        ("heads=8", None),
        ("hidden=16,24,32", "hidden=16,24"),
        ("q_heads=4", None),
    ],
)
def test_sizes_to_try_are_those_that_a_student_still_can_have(vary, left):
    """Of the parent's Mamba heads, hidden size and attention blocks some are gone."""
    settings = SearchSettings(vary=(vary, "intermediate=64..256"), budget=("1k",))
    student = tiny("M-M-", heads=4, hidden=24, intermediate=128)
    found = fitted(settings, student)
    assert found.vary == (*([left] if left else []), "intermediate=64..128")
    assert replace(found, vary=()) == replace(settings, vary=())
    check_asked(student, found)
    if vary != left:
        with pytest.raises(UserError):
            check_asked(student, settings)


@given(
    parameters=st.none() | st.integers(1, 10**15),
    active=st.none() | st.integers(1, 10**15),
    size=st.none() | st.integers(1, 10**15),
    ms=st.floats(1e-6, 1e9),
    phase=st.sampled_from(["prefill", "decode", "total"]),
)
def test_limits_are_said_and_read_again_exactly(parameters, active, size, ms, phase):
    time = TimeLimit(phase=phase, ms=ms, work=Generation(batch=3, prompt=70, output=9))
    limits = Limits(parameters=parameters, active=active, bytes=size, times=(time,))
    assert parse_budget(limits.texts()).resolve(7) == limits
    assert {f.name for f in fields(Limits)} == {*STEPPED, "bytes", "times"}


@pytest.mark.parametrize(
    ("steps", "more", "what"),
    [
        (["90%", "95%"], {}, "'95%' is no step"),
        (["90%", "90%"], {}, "'90%' is no step"),
        (["90%", "31GiB"], {}, "'31GiB' is no step"),
        (["90%", "1.2x"], {}, "'1.2x' is no step"),
        (["90%", "many"], {}, "'many' is not a budget"),
        (["90%"], {}, "'90%' is no step"),
        (1, {}, "'1' is no step"),
        (101, {}, "'101' is no step"),
        (3, {}, "There is no budget"),
        (3, {"search": {"budget": "1MB"}}, "needs a budget of parameters"),
        (["90%", "80%"], {"search": {"budget": "70%"}}, "bound the parameters"),
        (["100%", "90%"], {}, "meets this budget already"),
        (3, {"search": {"budget": "100%"}}, "meets this budget already"),
        (["70%", "60%"], {}, "No architecture"),
        (["90%", "80%"], {"step_shares": [1, 2, 3]}, "does not go with"),
        (["90%", "80%"], {"step_shares": [1, -2]}, "out of bounds"),
        ([], {"step_shares": [1, 2]}, "none is named"),
        ([], {"drop_steps": True}, "none is named"),
        (["90%", "80%"], {"step_shares": [1, 99]}, "too few tokens"),
    ],
)
def test_steps_that_have_no_meaning_are_refused(steps, more, what):
    with pytest.raises(UserError, match=what):
        plan(steps, **more)


def test_search_says_the_steps_and_what_follows(capsys):
    words = ("search", CONFIG, "--budget", "60%", "--mamba-heads")
    run(*words, "--steps", 3, "--json")
    found = json.loads(capsys.readouterr().out)
    assert [len(budget) for budget in found["steps"]] == [1, 1, 1]
    first, _, last = (int(budget[0]) for budget in found["steps"])
    assert found["budget"]["parameters"] == first
    assert last == int(Fraction(60, 100) * found["parent_cost"]["parameters"])
    run(*words, "--steps", 3)
    said = capsys.readouterr().out
    assert f"minipuzzle search --run minipuzzle-run-next --budget {last} --steps 2" in said
    run(*words, "--json")
    assert "steps" not in json.loads(capsys.readouterr().out)
    run(*words, "--steps", 0, code=2)
    assert "--steps is out of bounds" in capsys.readouterr().err
    run("search", CONFIG, "--budget", "10GiB", "--steps", 2, code=2)
    assert "A number of steps needs a budget of parameters" in capsys.readouterr().err
