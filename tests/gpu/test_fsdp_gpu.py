"""Two GPUs train as one does: FSDP2 over NCCL, states moved between one and two processes,
adapters, transformer-engine's FP8.

Started by pytest in one process; it launches torchrun itself. NVLink multicast stays off
(NCCL_NVLS_ENABLE=0).
"""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import TEXT, heard
from safetensors.torch import load_file
from test_parallel_commands import RECIPE

from minipuzzle.artifacts import read_json
from minipuzzle.ranks import alone
from minipuzzle.training.checkpointing import list_states

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs 2 GPUs"),
]
PLACES = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": PLACES,
    "OMP_NUM_THREADS": "4",
    "NCCL_NVLS_ENABLE": "0",
    "WORLD_DEVICE": "cuda",
}
SIZES = {
    "hidden": 256,
    "heads": 16,
    "head_dim": 64,
    "groups": 2,
    "state": 64,
    "intermediate": 512,
    "vocab": 61,
    "chunk_size": 64,
}
FP8 = {"precision": "fp8", "teacher_precision": "fp8", "bf16_ends": 0}
WORLD = Path(__file__).parent.parent / "world.py"


def launch(folder, part, count=2, world=WORLD):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(count),
        str(world),
    ]
    started = time.monotonic()
    done = subprocess.run(
        [*command, str(folder), part],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done, time.monotonic() - started


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    save(shaken(tiny("M-*-", **SIZES), 0), folder / "student", tokenizer=False)
    save(shaken(tiny("M-*-M-", **SIZES), 1), folder / "teacher", tokenizer=False)
    done, seconds = launch(folder, "two")
    print(f"two GPUs: {seconds:.0f} s")
    assert done.returncode == 0, done.stderr[done.stderr.find("Traceback") :][:6000]
    return folder


def column(folder, run, name):
    lines = (folder / run / "log.csv").read_text().splitlines()
    place = lines[0].split(",").index(name)
    return [float(line.split(",")[place]) for line in lines[1:]]


def test_two_gpus_equal_one(world):
    """Losses within BF16's rounding: sharded runs gather vectors (norms, A, D, dt) in BF16 too, a
    single GPU has FP32.
    """
    from world import distil

    distil(world, alone(torch.device("cuda")), "one")
    for run in ("two", "whole", "gathered", "hsdp", "micro", "context"):
        off = max(
            abs(a / b - 1)
            for a, b in zip(column(world, run, "loss"), column(world, "one", "loss"), strict=True)
        )
        print(f"{run}: losses within {off:.2%} of one GPU's")
        assert off < 0.02


@pytest.mark.parametrize(
    ("run", "settings"),
    [("adapter", {"adapter": "tl6"}), ("fp8", FP8), ("adapter-fp8", {"adapter": "lora", **FP8})],
)
def test_adapters_and_fp8_on_two_gpus_equal_one(world, run, settings):
    """transformer-engine multiplies with the weights that FSDP2 gathers; a scale is that of a
    process's share of the batch.
    """
    if (
        "fp8" in run and find_spec("transformer_engine") is None
    ):  # importing it here would choose cuDNN before engine() does
        pytest.skip("transformer-engine is not installed")
    from world import distil

    distil(world, alone(torch.device("cuda")), f"one-{run}", micro_batch=3, **settings)
    one, two = (column(world, name, "loss") for name in (f"one-{run}", run))
    off = max(abs(a / b - 1) for a, b in zip(two, one, strict=True))
    print(f"{run}: losses within {off:.2%} of one GPU's")
    assert off < 0.02
    trained = load_file(world / f"{run}.safetensors")
    if "adapter" in run:
        assert any(trained[name].any() for name in trained if name.endswith(".B"))
    else:
        plain = load_file(world / "two.safetensors")
        assert max((trained[n] - plain[n]).abs().max().item() for n in plain) > 1e-4  # it was FP8


def test_resume_and_one_process_after_two(world):
    from world import distil

    one, other = (load_file(world / f"{name}.safetensors") for name in ("two", "resumed"))
    off = max((one[n] - other[n]).abs().max().item() for n in one)
    print(f"resumed: parameters within {off:.1e} of the uninterrupted run's")
    assert off < 1e-3
    assert len(list(list_states(world / "moved/state")[0].glob("*.safetensors"))) == 2
    with heard() as said:
        distil(world, alone(torch.device("cuda")), "moved")
    assert any(line.startswith("going on after") for line in said)


def test_a_recipe_on_two_gpus(tmp_path):
    """Score, search, prune, distil an adapter, merge, eval: models in shards, scores and losses
    near those of one GPU.
    """
    save(shaken(tiny("M-M*-M-", **{**SIZES, "vocab": 4096})), tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.format(folder=tmp_path, text=TEXT).replace("device: cpu", "device: cuda")
    )
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    rows = []
    for name, start in (("one", ["-m"]), ("two", torchrun)):
        command = [
            sys.executable,
            *start,
            "minipuzzle",
            "run",
            str(tmp_path / "recipe.yaml"),
            "--run",
            str(tmp_path / name),
        ]
        done = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        rows.append(read_json(tmp_path / name / "eval.json")["rows"])
    for one, two in zip(*rows, strict=True):
        print(
            f"{one['name']}: {one['loss']:.4f} on one GPU, {two['loss']:.4f} on two; KL"
            f" {one['kl']:.4f}, {two['kl']:.4f}"
        )
        assert two["loss"] == pytest.approx(one["loss"], rel=0.02)


def test_a_killed_process_ends_the_other(world):
    done, seconds = launch(world, "killed")
    ended = time.time()
    after = ended - float(done.stdout.split("killed at ")[1].split()[0])
    print(f"ended {after:.0f} s after the kill, {seconds:.0f} s after the start")
    assert done.returncode
    assert "Another process of this run has ended" in done.stderr
    assert after < 60
