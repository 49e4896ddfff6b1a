"""Several processes (gloo, on the CPU) train as one does, and go on from each other's states."""

from dataclasses import replace

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import heard
from launched import together
from safetensors.torch import load_file
from world import CPU, FP8, STEP, distil, main

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.cost.exchange import weight_bytes
from minipuzzle.memory.division import Division
from minipuzzle.model import load_model
from minipuzzle.ranks import alone
from minipuzzle.training.checkpointing import list_states


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which one process, then two have trained the same student."""
    folder = tmp_path_factory.mktemp("world")
    sizes = {"hidden": 16, "heads": 16, "head_dim": 4, "vocab": 61}  # multiples of 16, for FP8
    save(shaken(tiny("M-*E", **sizes), 0), folder / "student", tokenizer=False)
    save(shaken(tiny("M-*-", **sizes), 1), folder / "teacher", tokenizer=False)
    one = alone(CPU)
    distil(folder, one, "one")
    distil(folder, one, "one-adapter", adapter="tl6")
    distil(folder, one, "one-averaged", average=0.5)
    distil(
        folder, one, "one-fp8", micro_batch=3, **FP8
    )  # each process's share: a scale is that of what is multiplied at once
    distil(folder, one, "one-adapter-fp8", adapter="lora", micro_batch=3, **FP8)
    together(2, main, folder, "two")
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
    "run",
    [
        *(
            "two",
            "whole",
            "gathered",
            "hsdp",
            "micro",
            "context",
            "experts",
            "borrowed",
            "averaged",
            "fp8",
        ),
        *("adapter", "adapter-fp8"),
    ],
)
def test_two_processes_equal_one(world, run):
    start = dict(load_model(Checkpoint.open(world / "student")).named_parameters())
    one = f"one-{run}" if (world / f"one-{run}").exists() else "one"
    trained = load_file(world / f"{one}.safetensors")
    start |= {name: torch.zeros(()) for name in trained if name.endswith(".B")}
    moved = max((trained[name] - value).abs().max().item() for name, value in start.items())
    off = difference(world, one, run)
    print(
        f"{run}: parameters differ by {off:.1e} from one process after 6 AdamW steps (they moved by"
        f" up to {moved:.1e})"
    )
    assert off < 1e-3 * moved
    for name in ("loss", "teacher_entropy", "grad_norm", "expert_load.3"):
        assert column(world, run, name) == pytest.approx(column(world, one, name), rel=2e-5)
    if run.startswith("adapter"):
        assert all(
            torch.equal(trained[name], value) for name, value in start.items() if value.ndim
        )  # the base is frozen


@pytest.mark.parametrize(
    ("run", "division"),
    [
        ("two", Division()),
        ("gathered", Division(gathered=True)),
        ("whole", Division(whole_teacher=True, gathered=True)),
    ],
)
def test_what_is_sent_is_what_is_planned(world, run, division, monkeypatch):
    """In FP32; FSDP2 sends both processes' rows of a vocabulary of 61 as 31."""
    monkeypatch.setattr("minipuzzle.cost.exchange.BF16", 4)
    student, teacher = (
        replace(Checkpoint.open(world / name).architecture, vocab_size=62)
        for name in ("student", "teacher")
    )
    planned = weight_bytes(student, teacher, 2, 1, division)
    assert int((world / f"{run}.sent").read_text()) == planned


@pytest.mark.parametrize(("run", "like"), [("offload", "averaged"), ("offload-moved", "two")])
def test_offloaded_weights_are_those_that_are_not(world, run, like):
    """Also where a run goes on with them that began without, and each sequence is divided."""
    assert difference(world, run, like) < 2e-5
    for name in ("loss", "teacher_entropy", "grad_norm"):
        assert column(world, run, name) == pytest.approx(column(world, like, name), rel=1e-6)


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


def test_a_state_of_divided_experts_goes_on_in_one_process(world):
    distil(world, alone(CPU), "experts-moved")
    assert difference(world, "one", "experts-moved") < 2e-5


def test_two_then_one_then_three_processes(world):
    """A state of two processes goes on in one, whose state goes on in three."""
    (state,) = list_states(world / "moved/state")
    assert state.name == f"{3 * STEP:015}"
    assert len(list(state.glob("*.safetensors"))) == 2
    with heard() as said:
        distil(world, alone(CPU), "moved", stop_after=2)
    assert said[0] == f"going on after {3 * STEP:,} tokens"
    assert len(list(list_states(world / "moved/state")[0].glob("*.safetensors"))) == 1
    together(3, main, world, "three")
    assert difference(world, "one", "moved") < 2e-5
    assert torch.isfinite(torch.tensor(column(world, "moved", "loss"))).all()
