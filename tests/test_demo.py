"""The README shows what the recorded demo printed, and parts of that demo, computed again, are as
they were: the cut of its winner, the first steps of its distillation, losses of the cut.

Its scores and its search are computed again in small by tests/test_goldens.py, the whole of it by
`make demo-check`.
"""

import json
from dataclasses import replace
from io import StringIO

import pytest
from demo_record import COMMAND, README, RECORD, STEP, machine, packed, unpacked
from goldens import files
from rich.console import Console
from shown import plain, shown

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.metrics import measure
from minipuzzle.ranks import ranks
from minipuzzle.records import EvalResult
from minipuzzle.report.evaluated import eval_table
from minipuzzle.rundir import RunDir
from minipuzzle.runs.job import Job
from minipuzzle.settings import Recipe
from minipuzzle.settings.recipe_file import load_recipe
from minipuzzle.training import distillation, train
from minipuzzle.training.log import TrainingLog

THEN = json.loads(RECORD.read_text())


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(embedded.recipe_path("demo"), Recipe)


@pytest.fixture(scope="module")
def job(recipe, tmp_path_factory):
    run = RunDir(tmp_path_factory.mktemp("demo"))
    return Job(run, checkpoint=embedded.teacher_path(), data=recipe.data, device="cpu")


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut") / THEN["winner"]
    files.cut(embedded.teacher_path(), unpacked(THEN["selection"]), folder)
    return folder


def agrees(now, then):
    """Bit for bit where the record was made by such a machine, to a thousandth elsewhere."""
    if machine() == THEN["machine"]:
        assert now == then
    else:
        assert now == pytest.approx(then, rel=1e-3, abs=1e-3)


def test_the_readme_shows_what_the_recorded_demo_printed():
    lines = plain(dict(shown(README))[COMMAND])
    assert len(lines) > 10
    assert [line for line in lines if line not in THEN["printed"]] == []
    assert lines == [line for line in THEN["printed"] if line in lines]  # in that order


def test_the_table_of_the_recorded_numbers_is_the_readmes(tmp_path):
    (tmp_path / "eval.json").write_text(json.dumps(THEN["eval"]))
    screen = StringIO()
    Console(file=screen, width=132).print(eval_table(EvalResult.load(tmp_path / "eval.json")))
    printed = plain(screen.getvalue().splitlines())
    lines = plain(dict(shown(README))[COMMAND])
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("parameters")) :]
    assert [line for line in table if line not in printed] == []


def test_a_selection_survives_packing():
    selection = {"blocks": [{"intermediate": [0, 3, 70]}, None, {}], "hidden": None}
    assert unpacked(packed(selection)) == selection


def test_the_winner_is_cut_as_it_was(cut):
    assert dict(files.all_tensors("cut", cut))["cut"] == THEN["tensors"]


def test_losses_on_speeches_are_as_they_were(job, cut):
    """Of the cut, and how far it is from the teacher; the README's row is this, rounded."""
    speeches = dict(job.validation("eval").by_domain())["speeches"]
    with ranks(job.device) as group:
        model, teacher = job.load_frozen(Checkpoint.open(cut), group), job.frozen_parent(group)
        found = measure(model, speeches, teacher=teacher)
    row = next(row for row in THEN["eval"]["rows"] if row["name"] == "pruned")
    then = row["domains"]["speeches"]
    assert speeches.tokens.size == then["tokens"]
    for number in ("loss", "kl", "agreement", "next_token_accuracy"):
        assert getattr(found, number) == pytest.approx(then[number], rel=1e-3, abs=1e-6)


class Enough(Exception):
    """The steps that were wanted are done."""


def test_the_first_steps_of_distillation_are_as_they_were(job, recipe, cut, tmp_path, monkeypatch):
    settings = recipe.distill

    def add(log, **row):
        raise Enough(row)

    monkeypatch.setattr(TrainingLog, "add", add)
    with ranks(job.device) as group, pytest.raises(Enough) as caught:
        train(
            job.load(Checkpoint.open(cut), group, settings.training),
            distillation(job.frozen_parent(group), settings.loss),
            job.text("train"),
            replace(settings.training, tokens=settings.short_tokens),
            tmp_path / "short",
            identity="",
        )
    (row,) = caught.value.args
    then = THEN[f"step {STEP} of the short run"]
    assert row["step"] == STEP
    agrees({name: float(f"{row[name]:.6g}") for name in then}, then)
