"""kill -9 in the middle of score and of distill, then the same command: the result equals the
uninterrupted one.
"""

import os
import signal
import time
from types import SimpleNamespace

import pytest
from helpers import FAST, TEXT, run
from launched import forks
from safetensors.numpy import load_file as load_scores
from safetensors.torch import load_file

from minipuzzle.importance.streams import Streams
from minipuzzle.training import loop


def slowly(words, cwd):
    """A command in a process that is to be killed; each step of a training also saves."""
    os.chdir(cwd)
    streams, step = Streams.run, loop.update
    Streams.run = lambda *a, **k: (streams(*a, **k), time.sleep(0.1))
    loop.update = lambda *a, **k: (time.sleep(0.15), step(*a, **k))[1]
    loop.time = SimpleNamespace(monotonic=lambda: 1000 * time.monotonic())
    run(*words)


def killed(words, file, cwd):
    """Start a slowed-down command, wait until ``file`` exists, kill it."""
    process = forks().Process(target=slowly, args=(words, cwd))
    process.start()
    deadline = time.monotonic() + 90
    while not any(cwd.glob(file)):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture
def both(checkpoint, tmp_path):
    """Two run directories of the same checkpoint."""
    return checkpoint, tmp_path / "whole", tmp_path / "broken"


def test_score_and_distill_resume(both, tmp_path):
    checkpoint, whole, broken = both
    broken_score = ("score", checkpoint, "--run", broken, *FAST["score"], "--batch", 1)
    killed(broken_score, "broken/scores.partial/**/*.safetensors", tmp_path)
    assert not (broken / "scores.safetensors").exists()
    run(*broken_score)
    run("score", checkpoint, "--run", whole, *FAST["score"], "--batch", 1)
    assert not (broken / "scores.partial").exists()
    got, want = (load_scores(folder / "scores.safetensors") for folder in (broken, whole))
    assert got.keys() == want.keys()
    assert {
        "blocks",
        "hidden",
        "blocks.3.q_heads",
        "blocks.1.curve.intermediate.errors",
    } <= got.keys()
    assert all((got[name] == want[name]).all() for name in want)
    for folder in (whole, broken):
        run("search", "--run", folder, *FAST["search"], "--top", 1)
    # 30 steps
    distill = (
        "--data",
        TEXT,
        "--validation",
        TEXT,
        "--tokens",
        7680,
        "--length",
        64,
        "--batch",
        4,
        "--device",
        "cpu",
        "--learning-rate",
        "5e-4",
    )
    run("distill", "--run", whole, *distill)
    killed(
        ("distill", "--run", broken, *distill), "broken/distill/long/state/*/state.json", tmp_path
    )
    assert not (broken / "student").exists()
    run("distill", "--run", broken, *distill)
    got, want = (load_file(folder / "student" / "model.safetensors") for folder in (broken, whole))
    assert all((got[name] == want[name]).all() for name in want)
    rows = [
        (folder / "distill" / "long" / "log.csv").read_text().splitlines()
        for folder in (whole, broken)
    ]
    assert [r.split(",")[:5] for r in rows[0]] == [r.split(",")[:5] for r in rows[1]]
