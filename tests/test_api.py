"""import minipuzzle as mp: the same files as the commands', lazily, with rooms that share a
function's name intact.
"""

import inspect
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers import FAST, TEXT, run

import minipuzzle as mp
from minipuzzle import api, embedded
from minipuzzle.artifacts import read_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.runs.evaluate import named_checkpoints

FUNCTIONS = ("load", "score", "search", "prune", "distill", "evaluate")


def test_importing_needs_no_torch():
    code = """
import sys
import minipuzzle as mp
mp.SearchSettings(budget=("83%",)), mp.Data(), mp.UserError, mp.__version__, dir(mp)
assert "torch" not in sys.modules
import minipuzzle.nas.plan
assert "torch" not in sys.modules
import minipuzzle.training.loop, minipuzzle.metrics
assert callable(mp.search) and callable(mp.distill) and callable(mp.evaluate)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_typed_and_documented(name):
    shown, function = getattr(mp, name), getattr(api, name)
    signature = inspect.signature(function)
    assert inspect.signature(shown) == signature
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    assert signature.return_annotation is not inspect.Signature.empty
    assert "Raises: UserError" in function.__doc__
    assert name in dir(mp)


def test_nothing_else_is_there():
    with pytest.raises(AttributeError, match="nothing"):
        _ = mp.nothing
    assert set(FUNCTIONS) < set(mp.__all__)


def test_functions_write_what_commands_write(checkpoint, tmp_path):
    run("score", checkpoint, "--run", tmp_path / "commands", *FAST["score"])
    run("search", "--run", tmp_path / "commands", *FAST["search"])
    data = mp.Data(train=str(TEXT), calibration=str(TEXT), validation=str(TEXT), length=64)
    job = mp.load(checkpoint, run=tmp_path / "functions", data=data, device="cpu")
    scores = mp.score(job, mp.ScoreSettings(samples=8, block_samples=4))
    assert scores.blocks.shape == (len(job.parent.architecture.blocks),)
    settings = mp.SearchSettings(budget=("96%",), multiple=8, candidates=6, validation_blocks=4)
    found = mp.search(job, settings)
    ours, theirs = (
        read_json(tmp_path / which / "search.json") for which in ("functions", "commands")
    )
    for result in (ours, theirs):
        for step in result["funnel"]:
            del step["seconds"]
    assert ours == theirs
    assert tuple(mp.prune(job)) == found.top
    training = mp.Training(tokens=1024, batch=4, learning_rate=5e-4)
    student = mp.distill(job, mp.DistillSettings(short_tokens=512, training=training))
    assert student.parameters <= 0.96 * job.parent.parameters
    assert [row.name for row in mp.evaluate(job).rows] == ["teacher", "pruned", "student"]
    run(
        "search", "--run", tmp_path / "functions", *FAST["search"]
    )  # the command goes on from the functions' files
    with pytest.raises(mp.UserError, match="no budget"):
        mp.search(job, mp.SearchSettings())


def test_no_checkpoint_takes_anothers_row(checkpoint, tmp_path):
    names = ("teacher", "a/student", "b/student", "other")
    paths = [shutil.copytree(checkpoint, tmp_path / name) for name in names]
    parent = Checkpoint.open(embedded.teacher_path())
    found = named_checkpoints(
        SimpleNamespace(original=parent), [*paths, tmp_path / "b" / ".." / "other"]
    )
    assert list(found) == ["teacher", f"{tmp_path.name}/teacher", "a/student", "b/student", "other"]
    assert found["teacher"] is parent
    assert [c.path for c in found.values()][1:4] == paths[:3]
