"""The optimiser in the CPU's memory beside one GPU: losses near those without, in the memory that
is foretold, and states that go on with it.
"""

import gc

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import heard
from world import distil

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.memory.training import BF16, RESERVE, training_peak
from minipuzzle.ranks import ranks

pytestmark = pytest.mark.gpu
SIZES = {
    "hidden": 1024,
    "heads": 32,
    "head_dim": 64,
    "groups": 2,
    "state": 64,
    "intermediate": 4096,
    "vocab": 4096,
    "chunk_size": 64,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    save(shaken(tiny("M-M-M*-", **SIZES), 0), folder / "student", tokenizer=False)
    save(shaken(tiny("M-M-M*-", **SIZES), 1), folder / "teacher", tokenizer=False)
    return folder


def trained(folder, run, offload, **more):
    """The bytes at the worst moment."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with ranks(torch.device("cuda"), sharded=offload) as group:
        distil(folder, group, run, offload=offload, **more)
    return torch.cuda.max_memory_allocated() - before


def losses(folder, run):
    lines = (folder / run / "log.csv").read_text().splitlines()
    place = lines[0].split(",").index("loss")
    return [float(line.split(",")[place]) for line in lines[1:]]


def test_less_memory_and_the_same_losses(world):
    """Vectors (norms, A, D, dt) are gathered in BF16, as over several GPUs."""
    whole, away = (trained(world, run, run == "away") for run in ("whole", "away"))
    student, teacher = (Checkpoint.open(world / n).architecture for n in ("student", "teacher"))
    # this teacher is held in FP32
    told = training_peak(student, 32 * 6, teacher=teacher, offload=True).without((RESERVE,)).total
    told += BF16 * teacher.parameters
    pairs = zip(losses(world, "away"), losses(world, "whole"), strict=True)
    off = max(abs(a / b - 1) for a, b in pairs)
    print(
        f"{student.parameters:,} parameters: {whole / 2**20:,.0f} MiB, offloaded"
        f" {away / 2**20:,.0f} (estimate {told / 2**20:,.0f}); losses within {off:.2%}"
    )
    assert off < 0.02
    assert whole - away > 8 * student.parameters  # of 12 and more; a block is on its way
    assert away < told


def test_a_state_goes_on_with_it(world):
    trained(world, "moved", False, stop_after=3)
    with heard() as said:
        trained(world, "moved", True)
    assert any(line.startswith("going on after") for line in said)
    assert losses(world, "moved") == pytest.approx(losses(world, "whole"), rel=0.02)
