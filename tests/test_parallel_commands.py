"""Commands under torchrun do what they do in one process."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run
from launched import ENVIRONMENT, LAUNCH, together
from world import roomy

from minipuzzle.adapters import read_adapter
from minipuzzle.artifacts import read_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.training import curve, loop
from minipuzzle.training.checkpointing import list_states


def test_adapt_in_two_processes(tmp_path):
    """Answers only, with a teacher: the processes have different numbers of them."""
    for seed, name in enumerate(("model", "teacher")):
        save(shaken(tiny(), seed), tmp_path / name)
    words = "union", "state", "nation", "people", "congress", "treasury"
    rows = [
        {"prompt": f"{a} and {b}:", "answer": f" {a}" * (1 + len(b) % 3)}
        for a in words
        for b in words
    ]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = (
        "adapt",
        tmp_path / "model",
        "--data",
        tmp_path / "qa.jsonl",
        "--adapter",
        "lora",
        "--rank",
        2,
        "--teacher",
        tmp_path / "teacher",
        "--tokens",
        2048,
        "--length",
        64,
        "--batch",
        4,
        "--device",
        "cpu",
    )
    run(*command, "--run", tmp_path / "one")
    together(2, run, *command, "--run", tmp_path / "two")
    one, two = (
        read_json(tmp_path / name / "run.json")["stages"]["adapt"] for name in ("one", "two")
    )
    assert two["final_loss"] == pytest.approx(one["final_loss"], rel=1e-6)
    factors, others = (read_adapter(tmp_path / name / "adapter").tensors for name in ("one", "two"))
    off = max((others[name] - values).abs().max().item() for name, values in factors.items())
    print(f"adapt, 8 steps: factors differ by {off:.1e} from one process's")
    assert off < 1e-5


def with_room(function, *words):
    with roomy() as said:
        function(*words)
    assert any("the teacher whole on each, the student gathered once" in line for line in said)


RECIPE = """
checkpoint: {folder}/model
device: cpu
data: {{train: {text}, calibration: {text}, validation: {text}, length: 64}}
score: {{samples: 8, block_samples: 4}}
search: {{budget: "96%", multiple: 8, candidates: 4, validation_blocks: 4, top: 2}}
distill:
  short_tokens: 512
  adapter: {{kind: tl6, rank: 2}}
  training: {{tokens: 1024, batch: 4, learning_rate: 5e-4}}
"""


def test_a_whole_recipe_with_an_adapter_in_two_processes(tmp_path):
    """Score, search, prune, distil an adapter and merge it, eval: what one process gives; as where
    there is room for the teacher and the gathered student.
    """
    save(shaken(tiny()), tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT.read_text()[:6_000])
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.format(folder=tmp_path, text=tmp_path / "text.txt")
    )
    run("run", tmp_path / "recipe.yaml", "--run", tmp_path / "one")
    together(2, with_room, run, "run", tmp_path / "recipe.yaml", "--run", tmp_path / "two")
    assert (tmp_path / "two/report.html").exists()
    for row, same in zip(
        *(read_json(tmp_path / name / "search.json")["candidates"] for name in ("one", "two")),
        strict=True,
    ):
        assert same["name"] == row["name"]
        assert [same["loss"], same["kl"]] == pytest.approx([row["loss"], row["kl"]], rel=1e-4)
    one, two = (
        read_json(tmp_path / name / "run.json")["stages"]["distill"] for name in ("one", "two")
    )
    assert two["winner"] == one["winner"]
    assert two["final_kl"] == pytest.approx(one["final_kl"], rel=1e-5)
    start, merged, other = (
        Checkpoint.open(tmp_path / name)
        for name in ("one/candidates/" + one["winner"], "one/student", "two/student")
    )
    names = [tensor.name for tensor in merged.architecture.tensors()]
    moved, off = (
        max((a.tensor(n) - merged.tensor(n)).abs().max().item() for n in names)
        for a in (start, other)
    )
    print(
        f"run with an adapter: merged weights differ by {off:.1e} from one process's (they moved by"
        f" up to {moved:.1e})"
    )
    assert off < 1e-3 * moved
    assert read_adapter(tmp_path / "two/adapter").base == start.fingerprint
    for row, same in zip(
        *(read_json(tmp_path / name / "eval.json")["rows"] for name in ("one", "two")), strict=True
    ):
        for key in ("loss", "kl", "agreement"):
            assert same[key] == pytest.approx(row[key], rel=1e-4, abs=1e-6)


def stopped(after, *command):
    """Run a command that SIGTERM ends in its step ``after``, with a save."""
    update, steps = loop.update, itertools.count(1)

    def counted(*words, **options):
        if next(steps) == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(*words, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update", counted)
        run(*command)


def briefly(function, *args):
    """With a curve of the validation loss in a run of 16 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve, "FEWEST_STEPS", 16)
        function(*args)


def test_distill_in_two_processes_trains_every_weight_as_one_does(tmp_path):
    """The validation loss before the long run, and those on the curve's points, leave the head
    gathered, and all blocks where there is room; moved from two processes to one and back it ends
    as if it had stayed, moments too.
    """
    save(shaken(tiny()), tmp_path / "model")
    run("score", tmp_path / "model", "--run", tmp_path / "one", *FAST["score"])
    run("search", "--run", tmp_path / "one", *FAST["search"], "--top", 1)
    run("prune", "--run", tmp_path / "one", "--device", "cpu")
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    command = ("distill", *FAST["distill"], "--batch", 2, "--save-every", 600)
    command = (*command, "--tokens", 16 * 128, "--run")
    briefly(run, *command, tmp_path / "one")
    assert len(read_json(tmp_path / "one/run.json")["stages"]["distill"]["curve"]) > 1
    # where a point of the curve is
    together(2, briefly, with_room, stopped, 8, *command, tmp_path / "moved")
    briefly(stopped, 4, *command, tmp_path / "moved")
    together(2, briefly, run, *command, tmp_path / "moved")
    start = Checkpoint.open(next((tmp_path / "one/candidates").iterdir()))
    one, moved = (Checkpoint.open(tmp_path / name / "student") for name in ("one", "moved"))
    for name in (tensor.name for tensor in one.architecture.tensors()):
        changed = (one.tensor(name) - start.tensor(name)).abs().max().item()
        off = (one.tensor(name) - moved.tensor(name)).abs().max().item()
        print(f"{name}: off {off / changed:.1e} of what it changed by")
        assert off <= 1e-2 * changed, name


ENDLESS = ("--tokens", "100000000", "--save-every", "0.5")


def workers(parent: int) -> list[int]:
    """The processes that a torchrun started, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                words = (folder / "environ").read_bytes().split(b"\0")
                found[next(w for w in words if w.startswith(b"RANK="))] = int(folder.name)
        except (OSError, StopIteration):
            continue
    return [found[rank] for rank in sorted(found)]


def test_a_killed_process_ends_the_command_clearly_and_the_command_goes_on(tmp_path):
    """minipuzzle distill under torchrun, in emulated FP8: one process is killed, the other says so;
    given again it ends.
    """
    folder = tmp_path / "run"
    save(shaken(tiny(heads=16)), tmp_path / "model")
    run("score", tmp_path / "model", "--run", folder, *FAST["score"])
    run("search", "--run", folder, *FAST["search"], "--multiple", 16, "--top", 1)
    options = (
        "--run",
        folder,
        "--data",
        TEXT,
        "--validation",
        TEXT,
        "--length",
        64,
        "--batch",
        4,
        "--device",
        "cpu",
        "--learning-rate",
        "5e-4",
        "--precision",
        "fp8-emulated",
        "--teacher-precision",
        "fp8-emulated",
        "--bf16-ends",
        1,
    )
    endless = subprocess.Popen(
        [*LAUNCH, "2", "-m", "--", "minipuzzle", "distill", *map(str, options), *ENDLESS],
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not list_states(folder / "distill/long/state"):
        assert endless.poll() is None, endless.stderr.read()[-3000:]
        time.sleep(0.1)
    os.kill(workers(endless.pid)[0], signal.SIGKILL)
    started = time.monotonic()
    said = endless.communicate(timeout=60)[1]
    print(f"ended {time.monotonic() - started:.1f} s after the kill")
    assert endless.returncode
    assert "Another process of this run has ended" in said
    assert all(part in said for part in ("got:", "allowed:", "next:"))
    said = together(2, run, "distill", *options, "--tokens", 4096)
    assert ["student:" in one for one in said] == [True, False]
    assert (
        Checkpoint.open(folder / "student").parameters
        < Checkpoint.open(tmp_path / "model").parameters
    )
