"""Several processes (gloo, on the CPU) train as one does, and go on from each other's states."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run
from safetensors.torch import load_file
from world import CPU, STEP, distil

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.distill.checkpointing import list_states
from minipuzzle.model import load_model
from minipuzzle.ranks import alone

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}


def torchrun(count: int, *words: object) -> subprocess.CompletedProcess:
    command = [*LAUNCH, str(count), *map(str, words)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which one process, then two have trained the same student."""
    folder = tmp_path_factory.mktemp("world")
    save(shaken(tiny("M-*", hidden=16, vocab=61), 0), folder / "student", tokenizer=False)
    save(shaken(tiny("M-*-", hidden=16, vocab=61), 1), folder / "teacher", tokenizer=False)
    distil(folder, alone(CPU), "one")
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


@pytest.mark.parametrize("run", ["two", "hsdp", "micro"])
def test_two_processes_equal_one(world, run):
    start = load_model(Checkpoint.open(world / "student")).state_dict()
    moved = max((v - start[n]).abs().max().item() for n, v in load_file(world / "one.safetensors").items())
    off = difference(world, "one", run)
    print(f"{run}: parameters differ by {off:.1e} from one process after 8 AdamW steps (they moved by up to {moved:.1e})")
    assert off < 1e-3 * moved
    for name in ("loss", "teacher_entropy", "grad_norm"):
        assert column(world, run, name) == pytest.approx(column(world, "one", name), rel=2e-5)


def test_two_processes_resume_bit_for_bit(world):
    assert difference(world, "two", "resumed") == 0.0
    assert column(world, "two", "loss") == column(world, "resumed", "loss")


def test_two_then_one_then_three_processes(world):
    """A state of two processes goes on in one, whose state goes on in three."""
    (state,) = list_states(world / "moved/state")
    assert state.name == f"{3 * STEP:015}"
    assert len(list(state.glob("*.safetensors"))) == 2
    said = []
    distil(world, alone(CPU), "moved", stop_after=2, said=said)
    assert said[0] == f"going on after {3 * STEP:,} tokens"
    assert len(list(list_states(world / "moved/state")[0].glob("*.safetensors"))) == 1
    done = torchrun(3, Path(__file__).with_name("world.py"), world, "three")
    assert done.returncode == 0, done.stderr[-3000:]
    assert difference(world, "one", "moved") < 2e-5
    assert torch.isfinite(torch.tensor(column(world, "moved", "loss"))).all()


EAGER = """
from minipuzzle.recipe import Training
Training.__init__.__kwdefaults__["checkpoint_seconds"] = 0.5
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
    """minipuzzle distill under torchrun: one process is killed, the other says so; given again it finishes."""
    folder = tmp_path / "run"
    save(shaken(tiny()), tmp_path / "model")
    run("score", tmp_path / "model", "--run", folder, *FAST["score"])
    run("search", "--run", folder, *FAST["search"], "--top", 1)
    options = ("--run", folder, "--data", TEXT, "--validation", TEXT, "--length", 64, "--batch", 4, "--device", "cpu")
    eager = tmp_path / "eager.py"
    eager.write_text(EAGER)
    command = ["--", str(eager), "distill", *map(str, options), "--tokens"]
    endless = subprocess.Popen([*LAUNCH, "2", *command, "100000000"], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
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
    assert Checkpoint.open(folder / "student").parameters < Checkpoint.open(tmp_path / "model").parameters
