"""Every number that a person can set has a least and a greatest; what is outside is told at once,
before anything is opened.
"""

import math
import time
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from helpers import run

import minipuzzle as mp
from minipuzzle.settings import Recipe
from minipuzzle.settings.recipe_file import build, load_recipe

KINDS = (mp.Data, mp.ScoreSettings, mp.SearchSettings, mp.DistillSettings, mp.Training)
NUMBERS = [(kind, f.name) for kind in KINDS for f in fields(kind) if f.type in ("int", "float")]
WRONG = [math.nan, math.inf, -math.inf, -1, 10**31, 1e40, 10**5000, "8", None, True, [1]]


def may_be_text(kind, name):
    """Whether it may be written as text: "128k", "50%"."""
    said = next(f for f in fields(kind) if f.name == name).metadata["setting"]
    return said.parse is not None


def told(kind, name, value):
    """The settings, or which of them is wrong."""
    try:
        return kind(**{name: value})
    except mp.UserError as error:
        return str(error).replace("8.0", "8")


@pytest.mark.parametrize(
    ("kind", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value)
)
def test_every_number_is_bounded(kind, name):
    for value in WRONG:
        if value == "8" and may_be_text(kind, name):
            assert told(kind, name, "8") == told(kind, name, 8)
            continue
        with pytest.raises(mp.UserError, match=name):
            kind(**{name: value})
    whole = next(f for f in fields(kind) if f.name == name).type == "int"
    if whole:
        with pytest.raises(mp.UserError, match=f"{name} is out of bounds"):
            kind(**{name: 1.5})
    usual = getattr(kind(), name)
    assert getattr(kind(**{name: usual}), name) == usual


def test_the_numbers_are_all_there():
    assert {name for _, name in NUMBERS} >= {
        "batch",
        "tokens",
        "short_tokens",
        "samples",
        "seed",
        "length",
        "clip",
        "warmup",
        "learning_rate",
        "candidates",
        "refine",
        "top",
        "multiple",
        "replicas",
    }
    for rate in (math.nan, math.inf, 0.0, -1.0):
        with pytest.raises(mp.UserError, match="rates"):
            mp.DistillSettings(rates=(1e-4, rate))


@pytest.mark.parametrize(
    "key",
    [
        "score: {batch: 1e25}",
        "distill: {training: {batch: 1e25}}",
        "distill: {training: {tokens: .inf}}",
        "search: {batch: 1e20}",
        "distill: {training: {learning_rate: .nan}}",
        f"score: {{samples: 1{'0' * 5000}}}",
        "data: {length: 1}",
        "score: {samples: null}",
        "search: {budget: 83%, top: -1}",
        f"search: {{budget: 1{'0' * 5000}}}",
        "search: {budget: 83q}",
        "search: {budget: 83%, context: 1.5}",
        "search: {prompt: -3}",
    ],
    ids=lambda key: key[:40],
)
def test_a_recipe_says_so_at_once(key, tmp_path, capsys):
    """`batch: 1e25` hung: the text was to be cut into as many."""
    (tmp_path / "r.yaml").write_text(f"checkpoint: nowhere\n{key}\n")
    began = time.monotonic()
    run("run", tmp_path / "r.yaml", "--run", tmp_path / "run", code=2)
    said = capsys.readouterr().err
    assert all(part in said for part in ("error:", "got:", "allowed:", "next:"))
    assert "nowhere" not in said
    assert len(said) < 1500
    assert time.monotonic() - began < 5
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("score", "CK", "--batch", 10**15),
        ("score", "CK", "--samples", 0),
        ("score", "CK", "--length", 1),
        ("score", "CK", "--seed", -1),
        ("search", "--budget", "83q"),
        ("search",),
        ("search", "--budget", "1" + "0" * 5000),
        ("search", "--budget", "83%", "--batch", 0),
        ("search", "--budget", "83%", "--context", "many"),
        ("search", "--budget", "1.2x", "--prompt", "0.5"),
        ("search", "--budget", "9" * 5000 + "%"),
        ("distill", "--batch", 10**15),
        ("distill", "--learning-rate", "nan"),
        ("distill", "--learning-rate", "1e-4,inf"),
        ("distill", "--tokens", "1e99"),
        ("distill", "--save-every", "nan"),
        ("adapt", "CK", "--batch", 10**12),
        ("adapt", "CK", "--learning-rate", "inf"),
        ("profile", "CK", "--widths", 10**9),
        ("profile", "CK", "--workload", "b1,p" + "9" * 5000),
    ],
    ids=lambda words: " ".join(map(str, words))[:40],
)
def test_a_command_says_so_before_it_opens_anything(words, tmp_path, capsys):
    run(
        *[tmp_path / "nowhere" if word == "CK" else word for word in words],
        "--run",
        tmp_path / "run",
        code=2,
    )
    said = capsys.readouterr().err
    assert "error:" in said
    assert "nowhere" not in said, "the checkpoint was looked for first"
    assert len(said) < 1500
    assert not (tmp_path / "run").exists()


NO_RECIPES = (
    "[1",
    "a: 1\n---\nb: 2",
    "? [a]\n: b",
    "a: \x00",
    "{" * 900,
    "x: 1" + "0" * 5000,
    "\xff",
    "5",
    "null",
)


@pytest.mark.parametrize("text", NO_RECIPES, ids=lambda text: repr(text[:12]))
def test_what_is_no_recipe_is_told(text, tmp_path):
    file = Path(tmp_path / "r.yaml")
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(mp.UserError) as told:
        load_recipe(file, Recipe)
    assert len(str(told.value)) < 1500


def test_settings_survive_a_round_of_yaml():
    shown = yaml.safe_dump(
        {
            "checkpoint": "x",
            "search": {"budget": ["83%", "1.2x@b8,p8k"]},
            "data": {"seed": 2**63 - 1},
        }
    )
    assert build(Recipe, yaml.safe_load(shown), "r").search.budget == ("83%", "1.2x@b8,p8k")
