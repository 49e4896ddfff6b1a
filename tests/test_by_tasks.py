"""Choosing by downstream tasks, as the paper does: 130 by accuracy and agreement, 3 by the shipped
questions, the winner too.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import save, shaken, tiny
from helpers import TEXT

import minipuzzle as mp
from minipuzzle import embedded
from minipuzzle.artifacts import read_json
from minipuzzle.data import Tokenizer
from minipuzzle.nas.rank import Evaluated, by_tasks
from minipuzzle.questions import choosing, item, questions
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
    again = by_tasks(ranked, [{"code": 0.25}, {"code": 0.25, "chat": 0.75}, {"code": 0.25}])
    assert [(r.candidate.name, r.rank, r.tasks) for r in again] == [
        ("b", 1, 0.5),
        ("a", 2, 0.25),
        ("c", 3, 0.25),
        ("d", 4, None),
        ("e", 5, None),
    ]


def test_only_kinds_above_chance_count(monkeypatch):
    right = {
        "code": [True, False, False, False] * 10,
        "chat": [True] * 40,
        "language": [True, True, False, False] * 10,
    }
    monkeypatch.setattr(choosing, "right", lambda model, items: np.array(right[items]))
    asked = {kind: kind for kind in right}
    assert list(choosing.counted(None, asked)) == ["chat", "language"]
    found = choosing.by_kind(None, asked)
    assert found == pytest.approx({"code": 0, "chat": 1, "language": 1 / 3})
    assert choosing.average(found) == pytest.approx(4 / 9)
    with pytest.raises(mp.UserError, match="do not distinguish the candidates"):
        choosing.counted(None, {"code": "code"})


def test_it_chooses_by_the_half_that_is_not_reported():
    words = Tokenizer.load(embedded.teacher_path())
    asked = choosing.choosing(words, 300)
    reported = questions(words, "eval", longest=300)
    assert list(asked) == list(reported)
    assert all(24 <= len(items) <= 100 for items in asked.values())
    for kind, items in asked.items():
        others = {tuple(item(q, words).context) for q in reported[kind]}
        assert not others & {tuple(each.context) for each in items}
        assert max(len(each.context) for each in items) < 300


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
    monkeypatch.setattr(choosing, "LIMIT", 2)
    for stage in ("parent", "legs"):
        monkeypatch.setattr(f"minipuzzle.runs.{stage}.counted", lambda model, asked: asked)
    seen = []

    def answered(model, asked):
        assert {"language", "chat"} <= set(asked)
        seen.append(model._dropped)
        return {"language": len(seen) / 100, "chat": len(seen) / 50}

    for stage in ("parent", "legs"):
        monkeypatch.setattr(f"minipuzzle.runs.{stage}.by_kind", answered)
    settings = mp.SearchSettings(budget=("97%",), candidates=6, validation_blocks=4, multiple=8)
    first = [row.name for row in mp.search(job, settings).candidates]
    asked = mp.SearchSettings(
        budget=("97%",), candidates=6, validation_blocks=4, multiple=8, by_tasks=4, top=2
    )
    found = mp.search(job, asked)
    assert [row.name for row in found.candidates] == [*reversed(first[:4]), *first[4:]]
    averages = [row.tasks for row in found.candidates][:5]
    assert averages == [pytest.approx(n * 0.015) for n in (4, 3, 2, 1)] + [None]
    assert found.candidates[0].kinds == {"language": 0.04, "chat": 0.08}
    assert found.candidates[4].kinds is None
    assert found.top == (first[3], first[2])
    assert [step.left for step in found.funnel if "tasks" in step.stage] == [4]
    assert len(set(seen)) > 1, "the candidates' masks"
    assert job.parent_model._dropped == frozenset()
    training = mp.Training(tokens=512, batch=4, learning_rate=1e-4)
    mp.distill(job, mp.DistillSettings(short_tokens=256, training=training, winner="tasks"))
    facts = read_json(tmp_path / "run/run.json")["stages"]["distill"]
    assert facts["winner"] == first[2]
    assert facts["short_tasks"] == pytest.approx({first[3]: 0.075, first[2]: 0.09})


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
