"""Several processes (gloo, on the CPU) train as one does, and go on from each other's states."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import save, shaken, tiny
from safetensors.torch import load_file
from world import CPU, STEP, distil

from minipuzzle.distill.checkpointing import list_states
from minipuzzle.ranks import alone


def torchrun(count: int, *words: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


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
    start = {n: v for n, v in load_file(world / "student/model.safetensors").items()}
    moved = max((v - start[n.replace("blocks", "backbone.layers")]).abs().max().item() if n in start else 0.0
                for n, v in load_file(world / "one.safetensors").items())  # fmt: skip
    off = difference(world, "one", run)
    print(f"{run}: parameters differ by {off:.1e} from one process after 8 AdamW steps (they moved by up to {moved:.1e})")
    assert off < 2e-5
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
