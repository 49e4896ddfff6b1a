"""Several processes (gloo, on the CPU) train as one does, and go on from each other's states."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import FAST, TEXT, heard, run
from safetensors.torch import load_file
from world import CPU, FP8, STEP, distil

from minipuzzle.adapters import read_adapter
from minipuzzle.artifacts import read_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model import load_model
from minipuzzle.ranks import alone
from minipuzzle.training.checkpointing import list_states

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}


def torchrun(count: int, *words: object) -> subprocess.CompletedProcess:
    command = [*LAUNCH, str(count), *map(str, words)]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which one process, then two have trained the same student."""
    folder = tmp_path_factory.mktemp("world")
    sizes = {"hidden": 16, "heads": 16, "head_dim": 4, "vocab": 61}  # multiples of 16, for FP8
    save(shaken(tiny("M-*", **sizes), 0), folder / "student", tokenizer=False)
    save(shaken(tiny("M-*-", **sizes), 1), folder / "teacher", tokenizer=False)
    one = alone(CPU)
    distil(folder, one, "one")
    distil(folder, one, "one-adapter", adapter="tl6")
    distil(
        folder, one, "one-fp8", micro_batch=3, **FP8
    )  # each process's share: a scale is that of what is multiplied at once
    distil(folder, one, "one-adapter-fp8", adapter="lora", micro_batch=3, **FP8)
    done = torchrun(2, Path(__file__).with_name("world.py"), folder, "two")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def difference(folder, a, b):
    one, other = (load_file(folder / f"{name}.safetensors") for name in (a, b))
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def column(folder, run, name):
    lines = (folder / run / "log.csv").read_text().splitlines()
    place = lines[0].split(",").index(name)
    return [float(line.split(",")[place]) for line in lines[1:]]


@pytest.mark.parametrize(
    "run", ["two", "hsdp", "micro", "borrowed", "adapter", "fp8", "adapter-fp8"]
)
def test_two_processes_equal_one(world, run):
    start = load_model(Checkpoint.open(world / "student")).state_dict()
    one = f"one-{run}" if (world / f"one-{run}").exists() else "one"
    trained = load_file(world / f"{one}.safetensors")
    start |= {name: torch.zeros(()) for name in trained if name.endswith(".B")}
    moved = max((trained[name] - value).abs().max().item() for name, value in start.items())
    off = difference(world, one, run)
    print(
        f"{run}: parameters differ by {off:.1e} from one process after 8 AdamW steps (they moved by"
        f" up to {moved:.1e})"
    )
    assert off < 1e-3 * moved
    for name in ("loss", "teacher_entropy", "grad_norm"):
        assert column(world, run, name) == pytest.approx(column(world, one, name), rel=2e-5)
    if run.startswith("adapter"):
        assert all(
            torch.equal(trained[name], value) for name, value in start.items() if value.ndim
        )  # the base is frozen


def test_two_processes_in_fp8_are_not_those_without(world):
    assert difference(world, "two", "fp8") > 1e-4


@pytest.mark.parametrize(("run", "resumed"), [("two", "resumed"), ("adapter", "adapter-resumed")])
def test_two_processes_resume_bit_for_bit(world, run, resumed):
    assert difference(world, run, resumed) == 0.0
    assert column(world, run, "loss") == column(world, resumed, "loss")


def test_an_adapters_state_of_two_processes_goes_on_in_one(world):
    (state,) = list_states(world / "adapter-moved/state")
    held = {name for file in state.glob("*.safetensors") for name in load_file(file)}
    assert held
    assert all("adapters." in name for name in held)  # never the frozen base
    distil(world, alone(CPU), "adapter-moved", adapter="tl6")
    assert difference(world, "one-adapter", "adapter-moved") < 2e-5


def test_two_then_one_then_three_processes(world):
    """A state of two processes goes on in one, whose state goes on in three."""
    (state,) = list_states(world / "moved/state")
    assert state.name == f"{3 * STEP:015}"
    assert len(list(state.glob("*.safetensors"))) == 2
    with heard() as said:
        distil(world, alone(CPU), "moved", stop_after=2)
    assert said[0] == f"going on after {3 * STEP:,} tokens"
    assert len(list(list_states(world / "moved/state")[0].glob("*.safetensors"))) == 1
    done = torchrun(3, Path(__file__).with_name("world.py"), world, "three")
    assert done.returncode == 0, done.stderr[-3000:]
    assert difference(world, "one", "moved") < 2e-5
    assert torch.isfinite(torch.tensor(column(world, "moved", "loss"))).all()


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
    done = torchrun(2, "-m", "--", "minipuzzle", *command, "--run", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        read_json(tmp_path / name / "run.json")["stages"]["adapt"] for name in ("one", "two")
    )
    assert two["final_loss"] == pytest.approx(one["final_loss"], rel=1e-6)
    factors, others = (read_adapter(tmp_path / name / "adapter").tensors for name in ("one", "two"))
    off = max((others[name] - values).abs().max().item() for name, values in factors.items())
    print(f"adapt, 8 steps: factors differ by {off:.1e} from one process's")
    assert off < 1e-5


RECIPE = """
checkpoint: {folder}/model
device: cpu
data: {{train: {text}, calibration: {text}, validation: {text}, length: 64}}
score: {{samples: 8, block_samples: 4}}
search: {{budget: "96%", multiple: 8, candidates: 6, validation_blocks: 4, top: 2}}
distill:
  short_tokens: 1024
  adapter: {{kind: tl6, rank: 2}}
  training: {{tokens: 2048, batch: 4, learning_rate: 5e-4}}
"""


def test_a_whole_recipe_with_an_adapter_in_two_processes(tmp_path):
    """Score, search, prune, distil an adapter and merge it, eval: what one process gives."""
    save(shaken(tiny()), tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path, text=TEXT))
    run("run", tmp_path / "recipe.yaml", "--run", tmp_path / "one")
    done = torchrun(
        2, "-m", "--", "minipuzzle", "run", tmp_path / "recipe.yaml", "--run", tmp_path / "two"
    )
    assert done.returncode == 0, done.stderr[-3000:]
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


EAGER = """
from minipuzzle.settings import Training
Training.__init__.__kwdefaults__["save_every"] = 0.5
from minipuzzle.cli import main
main()
"""


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
    eager = tmp_path / "eager.py"
    eager.write_text(EAGER)
    command = ["--", str(eager), "distill", *map(str, options), "--tokens"]
    endless = subprocess.Popen(
        [*LAUNCH, "2", *command, "100000000"],
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
    done = torchrun(2, *command, "4096")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "student:" in done.stdout
    assert done.stdout.count("student:") == 1
    assert (
        Checkpoint.open(folder / "student").parameters
        < Checkpoint.open(tmp_path / "model").parameters
    )
