"""A recipe of several steps: the same models as the verbs one after the other, kills or none."""

import json
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import save, shaken, tiny
from helpers import TEXT
from safetensors.torch import load_file
from test_report import check

import minipuzzle as mp
from minipuzzle import embedded, pipeline
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.nas.steps import plan_steps
from minipuzzle.records import RunRecord, SearchResult
from minipuzzle.rundir import RunDir
from minipuzzle.runs.job import Job
from minipuzzle.runs.steps import drop_before
from minipuzzle.settings import EMBEDDED, Recipe
from minipuzzle.settings.recipe_file import build
from minipuzzle.training import loop

TINY = tiny("M-*-", intermediate=512)
STEPS = ("95%", "90%")
STAGES = ("run_score", "run_search", "run_prune", "run_distill", "run_eval", "finish_step")


class Died(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint of dense blocks, and a short text."""
    folder = tmp_path_factory.mktemp("steps")
    save(shaken(TINY), folder / "ckpt")
    (folder / "text.txt").write_text(TEXT.read_text()[:6_000])
    return folder


def recipe(place, **more):
    text = str(place / "text.txt")
    values = {
        "checkpoint": str(place / "ckpt"),
        "device": "cpu",
        "data": {"train": text, "calibration": text, "validation": text, "length": 64},
        "score": {"samples": 6, "block_samples": 3},
        "search": {"multiple": 8, "candidates": 6, "validation_blocks": 4, "top": 1},
        "distill": {
            "short_tokens": 1024,
            "rates": 5e-4,
            "training": {"tokens": 2048, "batch": 4, "save_every": 0},
        },
        "steps": list(STEPS),
    }
    return build(Recipe, values | more, "r")


@pytest.fixture(scope="module")
def whole(place):
    """The run directory of the uninterrupted run."""
    pipeline.compress(recipe(place), place / "whole")
    return place / "whole"


def weights(folder):
    return load_file(folder / "student" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all((one[n] == other[n]).all() for n in one)


def test_steps_are_the_verbs_one_after_the_other(place, whole):
    """Each scores, searches and cuts the student before it; the original teaches."""
    wanted, parent = recipe(place), place / "ckpt"
    whole_size = Checkpoint.open(parent).parameters
    for k, share in enumerate((95, 90)):
        folder = whole if k == 1 else whole / "steps" / str(k + 1)
        job = mp.load(parent, run=place / f"hand-{k}", data=wanted.data, device="cpu")
        mp.score(job, wanted.score)
        limit = str(share * whole_size // 100)
        found = mp.search(job, replace(wanted.search, budget=(limit,), uniform=k < 1))
        assert found.top == SearchResult.load(folder / "search.json").top
        training = replace(wanted.distill.training, tokens=1024, seed=k)
        settings = replace(wanted.distill, short_tokens=512, training=training)
        made = mp.distill(job, settings, teacher=place / "ckpt")
        assert same(weights(job.run.path), weights(folder))
        assert made.parameters <= int(limit)
        parent = made.path
    teacher = mp.load(place / "ckpt", run=place / "eval", data=wanted.data, device="cpu")
    student = mp.evaluate(teacher, [parent]).rows[1]
    row = RunRecord.load(whole / "run.json").steps[-1]
    assert (row.loss[2], row.kl[2]) == (student.loss, student.kl)


def test_the_run_records_and_shows_each_step(whole, capsys):
    record = RunRecord.load(whole / "run.json")
    assert [row.budget for row in record.steps] == list(STEPS)
    assert [row.tokens for row in record.steps] == [1024] * 2
    assert not (whole / "steps" / "1" / "tokens").exists()  # tokenised once, in the run directory
    assert record.original.parameters == Checkpoint.open(whole.parent / "ckpt").parameters
    for row in record.steps:
        rows = json.loads((whole / row.folder / "eval.json").read_text())["rows"]
        assert [r["name"] for r in rows] == ["teacher", "pruned", "student"]
        assert rows[0]["path"] == str(whole.parent / "ckpt")  # the original, in each step
        assert tuple(r["loss"] for r in rows) == row.loss
        assert rows[2]["parameters"] == row.parameters
        assert len(row.pattern) == 4
    card = (whole / "student" / "README.md").read_text()
    text, _ = check(whole / "report.html")
    for row in record.steps:
        for shown in (f"{row.loss[1]:.4f}", f"{row.loss[2]:.4f}", f"{row.kl[2]:.4f}"):
            assert shown in text
            assert shown in card
    assert 'id="steps"' in text
    assert "steps/1/report.html" in text
    assert 'id="steps"' not in (whole / "steps" / "1" / "report.html").read_text()
    assert "base_model: ckpt" in card


def files(folder):
    """What two runs must have alike."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.endswith("student/model.safetensors"):
            found[name] = path.read_bytes()
        elif path.suffix in (".safetensors", ".csv", ".json", ".md"):
            found[name] = b""
    return found


def test_a_run_that_is_killed_again_and_again_ends_the_same(place, whole, monkeypatch, said):
    """Before every stage of the last step, and in the middle of each training."""
    folder, died, updates = place / "broken", [], []

    def die_once(at):
        if at not in died:
            died.append(at)
            raise Died

    def dying(name, work):
        def stage(job, *rest, **more):
            if job.run.path == folder:
                die_once(name)
            return work(job, *rest, **more)

        return stage

    def update(*words, **more):
        updates.append(1)
        if len(updates) in (3, 9):  # of 4; of the 2 or 3 that were left, and 4 of the last step
            die_once(len(updates))
        return real(*words, **more)

    real, clock = loop.update, time.monotonic
    monkeypatch.setattr(loop, "update", update)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 1000 * clock()))
    monkeypatch.setattr(pipeline, "build_report", lambda path: path / "report.html")
    for name in STAGES:
        monkeypatch.setattr(pipeline, name, dying(name, getattr(pipeline, name)))
    for _ in range(len(STAGES) + 2):
        with pytest.raises(Died):
            pipeline.compress(recipe(place), folder)
    pipeline.compress(recipe(place), folder)
    assert len([line for line in said if line.startswith("going on after")]) == 2
    found, wanted = files(folder), files(whole)
    assert [name for name in found if found[name] != wanted.get(name)] == []
    assert found.keys() == wanted.keys()
    assert RunRecord.load(folder / "run.json").steps == RunRecord.load(whole / "run.json").steps


def test_steps_that_were_finished_otherwise_are_refused(place, whole):
    other = "step 1, finished with other settings or inputs"
    for change, got in (
        ({"steps": ["96%", "90%"]}, other),
        ({"score": {"samples": 5, "block_samples": 3}}, other),
        ({"data": {**vars(recipe(place).data), "length": 32}}, other),
        ({"steps": ["97%", "95%", "90%"]}, "a run from steps/1/student"),
    ):
        with pytest.raises(UserError, match="holds another run") as caught:
            pipeline.compress(recipe(place, **change), whole)
        assert caught.value.got == got
    once = replace(recipe(place), steps=(), search=replace(recipe(place).search, budget=("90%",)))
    with pytest.raises(UserError, match="belongs to another checkpoint"):
        pipeline.compress(once, whole)


def test_a_later_step_may_change_and_earlier_ones_are_dropped(place, whole, said):
    """In a folder that was moved, too: the last step begins with the student that is in it."""
    moved = shutil.copytree(whole, place / "moved")
    shutil.rmtree(moved / "steps" / "1" / "candidates")
    before = (moved / "steps" / "1" / "student" / "model.safetensors").stat().st_mtime_ns
    pipeline.compress(replace(recipe(place), steps=("95%", "89%"), drop_steps=True), moved)
    assert not any(line.startswith("step 1 of 2") for line in said)
    rows = RunRecord.load(moved / "run.json").steps
    assert [row.budget for row in rows] == ["95%", "89%"]
    assert Checkpoint.open(moved / "student").parameters == rows[-1].parameters
    assert (moved / "steps" / "1" / "student" / "model.safetensors").stat().st_mtime_ns == before
    assert RunDir(moved).parent == moved / "steps" / "1" / "student"


@pytest.mark.parametrize(
    ("number", "left"), [(1, "s1 s2 c2 s3 c3"), (2, "s2 s3 c3"), (3, "s3"), (4, "s3")]
)
def test_what_no_step_needs_is_dropped(number, left, tmp_path):
    """Of steps 1 to 3 and the last: the last one's parent stays, and its own files."""
    for step in (1, 2, 3):
        for name in ("student", "candidates"):
            (tmp_path / "steps" / str(step) / name).mkdir(parents=True)
    (tmp_path / "candidates").mkdir()
    plan = plan_steps(
        recipe(tmp_path, steps=4, search={"budget": "90%", "multiple": 8}), TINY, None
    )
    drop_before(tmp_path, plan[number - 1])
    found = sorted((path.parent.name, path.name) for path in tmp_path.glob("steps/*/*"))
    assert sorted(left.split()) == sorted(f"{name[0]}{step}" for step, name in found)
    assert (tmp_path / "candidates").exists()


def test_a_student_of_the_demos_teacher_has_the_demos_texts(place, tmp_path):
    teacher = embedded.teacher_path()
    job = Job(RunDir(tmp_path), checkpoint=place / "ckpt", data=mp.Data(), original=teacher)
    assert (job.data.train, job.data.calibration) == (EMBEDDED, EMBEDDED)
    again = Job(RunDir(tmp_path), checkpoint=None, data=mp.Data())
    assert again.original.path == teacher
    assert again.parent.path == place / "ckpt"
    with pytest.raises(UserError, match="Which train text"):
        Job(RunDir(tmp_path / "b"), checkpoint=place / "ckpt", data=mp.Data()).text_parts("train")


@pytest.mark.parametrize(
    ("run", "said"),
    [("a/run", "steps/2/student"), ("a/run/steps/3", "../2/student"), ("a/other", None)],
)
def test_a_parent_within_the_run_is_found_after_a_move(run, said, tmp_path):
    parent = tmp_path / "a" / "run" / "steps" / "2" / "student"
    parent.mkdir(parents=True)
    RunDir(tmp_path / run).set_parent(parent, "f")
    assert RunRecord.load(tmp_path / run / "run.json").parent.path == (said or str(parent))
    (tmp_path / "a").rename(tmp_path / "b")
    found = RunDir(tmp_path / run.replace("a/", "b/")).parent
    assert found.resolve().is_dir() == (said is not None)
