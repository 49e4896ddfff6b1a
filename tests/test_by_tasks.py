"""Choosing by downstream tasks, as the paper does: 130 by accuracy and agreement, 3 by the average
of tasks, the winner too.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import save, shaken, tiny
from helpers import TEXT

import minipuzzle as mp
from minipuzzle import cloze, embedded
from minipuzzle.artifacts import read_json
from minipuzzle.data import Tokenizer
from minipuzzle.nas.rank import Evaluated, by_tasks
from minipuzzle.settings import Recipe
from minipuzzle.settings.recipe_file import load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass
class Named:
    """As much of a candidate as is looked at."""

    name: str


def test_the_first_ones_are_ranked_again():
    ranked = [
        Evaluated(candidate=Named(name), quality=None, rank=i)
        for i, name in enumerate("abcde", start=1)
    ]
    again = by_tasks(ranked, [0.25, 0.5, 0.25])
    assert [(r.candidate.name, r.rank, r.tasks) for r in again] == [
        ("b", 1, 0.5),
        ("a", 2, 0.25),
        ("c", 3, 0.25),
        ("d", 4, None),
        ("e", 5, None),
    ]


def test_a_model_at_chance_has_no_tasks():
    words = Tokenizer.load(embedded.teacher_path())
    tasks = cloze.tasks_of([TEXT], words, count=8)
    assert {"copy", "recall", "next sentence"} <= set(tasks)
    assert all(len(items) <= 8 for items in tasks.values())
    with pytest.raises(mp.UserError, match="No task distinguishes the candidates"):
        cloze.counted(shaken(tiny()), {"copy": tasks["copy"]})


def test_the_average_is_over_tasks_and_counts_those_above_chance(monkeypatch):
    right = {
        "copy": [True, False, False, False],
        "recall": [True] * 3,
        "next line": [True, False, False, False],
    }
    monkeypatch.setattr(cloze, "correct", lambda model, items: np.array(right[items]))
    asked = {task: task for task in right}
    model = shaken(tiny("M"))
    assert cloze.average(model, asked) == pytest.approx((0.25 + 1 + 0.25) / 3)
    assert list(cloze.counted(model, asked)) == [
        "recall"
    ]  # one of four is chance, or what chance gives


def test_a_run_chooses_by_tasks(tmp_path, monkeypatch):
    """By stand-ins for the tasks: what is wide is right in the search, what comes last of the short
    runs in distillation.
    """
    path = save(shaken(tiny()), tmp_path / "model")
    text = str(TEXT)
    job = mp.load(
        path,
        run=tmp_path / "run",
        device="cpu",
        data=mp.Data(train=text, calibration=text, validation=text, length=64),
    )
    mp.score(
        job, mp.ScoreSettings(samples=4, block_samples=2, curves=False, estimator="minitron-pre")
    )
    monkeypatch.setattr("minipuzzle.runs.job.tasks_of", partial(cloze.tasks_of, count=2))
    for stage in ("parent", "legs"):
        monkeypatch.setattr(f"minipuzzle.runs.{stage}.counted", lambda model, tasks: tasks)
    seen = []

    def average(model, tasks):
        assert {"copy", "recall"} <= set(tasks)
        seen.append(model._dropped)
        return len(seen) / 100

    for stage in ("parent", "legs"):
        monkeypatch.setattr(f"minipuzzle.runs.{stage}.average", average)
    settings = mp.SearchSettings(budget=("97%",), candidates=6, validation_blocks=4, multiple=8)
    first = [row.name for row in mp.search(job, settings).candidates]
    asked = mp.SearchSettings(
        budget=("97%",), candidates=6, validation_blocks=4, multiple=8, by_tasks=4, top=2
    )
    found = mp.search(job, asked)
    assert [row.name for row in found.candidates] == [*reversed(first[:4]), *first[4:]]
    assert [row.tasks for row in found.candidates][:5] == [0.04, 0.03, 0.02, 0.01, None]
    assert found.top == (first[3], first[2])
    assert [step.left for step in found.funnel if "tasks" in step.stage] == [4]
    assert len(set(seen)) > 1, "the candidates' masks"
    assert job.parent_model._dropped == frozenset()
    training = mp.Training(tokens=512, batch=4, learning_rate=1e-4)
    mp.distill(job, mp.DistillSettings(short_tokens=256, training=training, winner="tasks"))
    facts = read_json(tmp_path / "run/run.json")["stages"]["distill"]
    assert facts["winner"] == first[2]
    assert facts["short_tasks"] == {first[3]: 0.05, first[2]: 0.06}


def test_the_recipe_is_the_papers():
    """arXiv:2504.03624: X W1^T, 1024 and 128 samples, MSE before the head, ~400 that fit, 130, 3,
    averages of tasks.
    """
    recipe = load_recipe(RECIPES / "minipuzzle-paper.yaml", Recipe)
    score, search = recipe.score, recipe.search
    assert (
        score.estimator,
        score.metric,
        score.samples,
        score.block_samples,
        score.curves,
        score.iterative,
    ) == ("minitron-pre", "mse", 1024, 128, False, 0)
    assert (search.method, search.candidates, search.by_tasks, search.top) == (
        "minipuzzle",
        400,
        130,
        3,
    )
    assert (search.mamba_heads, search.hidden_size) == (False, False)
    assert (recipe.distill.winner, recipe.distill.loss) == ("tasks", "forward-kl")
    assert search.budget == ("83%",)
