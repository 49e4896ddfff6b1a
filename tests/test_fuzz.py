"""148 of the cases of malformed input, seeded: never a traceback, a hang, a signal or a file left.

All of them: python -m tests.fuzz.
"""

import fcntl
import random

import pytest
from fuzz.base import make_base
from fuzz.groups import GROUPS, cases_of
from fuzz.recipes import GOOD, PRETRAIN
from fuzz.runner import run_case, warm

from minipuzzle.settings import PretrainRecipe, Recipe
from minipuzzle.settings.recipe_file import build

SHARES = {
    "config": 25,
    "family": 30,
    "safetensors": 15,
    "index": 10,
    "tokenizer": 12,
    "text": 10,
    "budget": 7,
    "recipe": 10,
    "rundir": 12,
    "adapter": 10,
    "export": 2,
    "options": 5,
}
"""Cases of each group: more of those that take a tenth of a second."""
PARTS = 6
SLOW = ("report", "distill", "adapt", "pretrain", "profile", "run", "bench", "eval")
"""Commands that do much where the input is good; the whole run has them."""


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Made once, whichever worker comes first."""
    shared = tmp_path_factory.getbasetemp().parent / "fuzz"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "base" / "made").exists():
            make_base(shared / "base")
            (shared / "base" / "made").touch()
    warm()
    return shared / "base"


@pytest.fixture(scope="session")
def chosen(base):
    """148 cases in an order of their own."""
    rng, found = random.Random(19), []
    for group, count in SHARES.items():
        found += rng.sample([case for case in cases_of(group, base) if quick(case)], count)
    rng.shuffle(found)
    return found


def quick(case):
    """Whether little is done where the input is good."""
    return case.words[0] not in SLOW or case.name.startswith(("run, ", "pretrain, "))


@pytest.mark.parametrize("part", range(PARTS))
def test_malformed_input_is_done_or_refused(part, base, chosen, tmp_path):
    outcomes = [run_case(case, base, tmp_path / "work") for case in chosen[part::PARTS]]
    assert [outcome for outcome in outcomes if outcome.bad] == []
    assert sum(outcome.kind == "four parts" for outcome in outcomes) > len(outcomes) / 2


def test_what_cases_start_from_is_good():
    """Otherwise all of them would be refused for the same reason."""
    build(Recipe, GOOD, "r.yaml")
    build(PretrainRecipe, PRETRAIN, "p.yaml")


def test_every_group_is_sampled():
    assert set(SHARES) == set(GROUPS)
    assert sum(SHARES.values()) == 148
