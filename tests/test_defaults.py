"""One default each: a verb means the same by command, by recipe and from Python."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from helpers import run

import minipuzzle as mp
from minipuzzle.settings import (
    ADAPT_RATE,
    ADAPTER_RATES,
    RATES,
    AdapterSettings,
    DistillSettings,
    Generation,
    PretrainRecipe,
    Recipe,
    Training,
    parse_work,
)
from minipuzzle.settings.recipe_file import build

BUDGET = ("83%",)
RECIPE = build(Recipe, {"checkpoint": "x", "search": {"budget": "83%"}}, "r")
STAGES = {
    "score": ("score.run_score", mp.ScoreSettings(), RECIPE.score, ()),
    "search": (
        "search.run_search",
        mp.SearchSettings(budget=BUDGET),
        RECIPE.search,
        ("--budget", "83%"),
    ),
    "distill": ("distill.run_distill", mp.DistillSettings(), RECIPE.distill, ()),
}

STOP = mp.UserError("The stage was about to begin.", got="", allowed="", next="")


@pytest.fixture
def taken(monkeypatch, checkpoint):
    """What a command makes a job of and hands to its stage."""
    found = {}

    def job(*words):
        found["data"] = words[2]

    def stage(_, settings, *rest):
        found["settings"] = settings
        raise STOP

    def record(command, function):
        monkeypatch.setattr(f"minipuzzle.commands.{command}.make_job", job)
        monkeypatch.setattr(f"minipuzzle.runs.{function}", stage)
        return found

    return record


@pytest.mark.parametrize("command", STAGES)
def test_a_command_without_options_is_the_recipe_without_keys(command, taken, tmp_path):
    """The workload of --budget 1.2x was 512 and 64 tokens here, 8192 and 1024 there; distill tried
    four rates here only.
    """
    function, python, recipe, words = STAGES[command]
    found = taken(command, function)
    run(command, "--run", tmp_path / "run", *words, code=2)
    assert found["settings"] == python == recipe
    assert found["data"] == mp.Data() == RECIPE.data


def test_adapt_takes_the_defaults_of_training(taken, tmp_path):
    found = taken("adapt", "adapt.run_adapt")
    run("adapt", "--run", tmp_path / "run", code=2)
    assert found["settings"].training == Training().at(ADAPT_RATE)
    assert found["settings"].adapter == AdapterSettings(kind="tl6")
    assert found["data"] == mp.Data()


def test_profile_times_what_a_budget_of_time_is_about(monkeypatch, tmp_path, checkpoint):
    asked = []

    def stage(_, works, *rest, **more):
        asked.extend(works)
        raise STOP

    monkeypatch.setattr("minipuzzle.runs.profile.run_profile", stage)
    run("profile", checkpoint, "--run", tmp_path, code=2)
    assert asked == [mp.SearchSettings().work] == [Generation()] == [parse_work("")]


def test_a_budget_of_time_says_what_it_is_about(capsys):
    config = Path(__file__).parent.parent / "docs" / "examples" / "nemotron-h-8b"
    run(
        "search",
        config,
        "--roofline",
        "h100",
        "--budget",
        "1.2x",
        "--budget",
        "decode=1.1x@b8,p8k,o1k",
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "total in at most" in said
    assert "ms for 1 x 512 tokens read and 64 generated" in said
    assert "ms for 8 x 8,000 tokens read and 1,000 generated" in said


def test_a_recipe_may_name_every_setting():
    for kind in (mp.ScoreSettings, mp.SearchSettings, mp.DistillSettings, mp.Data):
        values = {
            f.name: getattr(kind(), f.name)
            for f in fields(kind)
            if f.name not in ("adapter", "training")
        }
        values = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }
        assert build(kind, yaml.safe_load(yaml.safe_dump(values)), "r") == kind()


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, RATES),
        ({"adapter": {"kind": "tl6"}}, ADAPTER_RATES),
        ({"training": {"learning_rate": 1e-4}}, (1e-4,)),
        ({"rates": [1e-4, 3e-4], "training": {"learning_rate": 1.0}}, (1e-4, 3e-4)),
        ({"rates": [2e-4]}, (2e-4,)),
    ],
)
def test_rates_are_tried_unless_one_is_named(settings, rates):
    resolved = build(DistillSettings, settings, "r").resolved()
    assert resolved.rates == (rates if len(rates) > 1 else ())
    assert resolved.training.learning_rate == rates[0]
    assert resolved.resolved() == resolved


def test_what_cannot_be_guessed_has_no_default():
    for kind, values in ((Recipe, {}), (PretrainRecipe, {"model": {}})):
        with pytest.raises(mp.UserError, match="incomplete"):
            build(kind, values, "r")
    assert {mp.Data().train, mp.Data().calibration, mp.Data().validation} == {""}


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml")), ids=lambda p: p.stem
)
def test_recipes_name_what_they_read(path):
    values = yaml.safe_load(path.read_text())
    assert values.get("checkpoint") == "embedded" or {"train", "validation"} <= set(values["data"])
