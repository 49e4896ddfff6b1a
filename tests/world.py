"""Run by tests/test_parallel.py under torchrun: python world.py FOLDER PART. Results lie in FOLDER for the test to read."""

import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, pack
from minipuzzle.distill import distillation, train
from minipuzzle.distill.parallel import gather, load_sharded
from minipuzzle.errors import UserError
from minipuzzle.kernels import choose
from minipuzzle.model import HybridLM, load_model
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.recipe import Training

CPU = torch.device("cpu")
DEVICE = torch.device(os.environ.get("WORLD_DEVICE", "cpu"))
STEP = 32 * 6
SETTINGS = Training(tokens=STEP * 8, learning_rate=1e-3, batch=6, checkpoint_seconds=1e9)


def text() -> TokenBlocks:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 61, (40 * 32,), generator=generator).numpy().astype("uint32")
    return pack([tokens], block_length=32, vocab_size=61, seed=0, fingerprint="test", text_bytes=1)


def names(model):
    """Of all parameters."""
    return [tensor.name for tensor in model.architecture.tensors()]


def models(folder: Path, group: Ranks, replicas: int = 1):
    """Student and teacher, sharded where there are several processes."""
    for name in ("student", "teacher"):
        checkpoint = Checkpoint.open(folder / name)
        if group.world == 1:
            yield load_model(checkpoint, device=group.device)
        else:
            empty = HybridLM(checkpoint.architecture, device="meta", kernels=choose(group.device))
            yield load_sharded(empty, checkpoint, group, replicas)


def distil(folder: Path, group: Ranks, run: str, *, stop_after: int = 0, kill=False, replicas: int = 1, said=None,
           **settings) -> None:  # fmt: skip
    """Distil in FOLDER/run; SIGTERM comes to the last process in step ``stop_after``. Writes FOLDER/run.safetensors."""
    student, teacher = models(folder, group, replicas)
    objective, steps = distillation(teacher.requires_grad_(False)), 0

    def counted(*args):
        nonlocal steps
        steps += 1
        if kill and steps == 5 and group.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if steps == stop_after and group.rank == group.world - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return objective(*args)

    say = (lambda text: None) if said is None else said.append
    with nullcontext() if not stop_after else pytest.raises(SystemExit, match=r"^0$"):
        train(student, counted, text(), replace(SETTINGS, **settings), folder / run, identity="x", ranks=group, say=say)
    if stop_after:
        return
    whole = {name: gather(student, name) for name in names(student)}
    if group.rank == 0:
        save_file(whole, folder / f"{run}.safetensors")


def main(folder: Path, part: str) -> None:
    with ranks(DEVICE) as group:
        if part == "two":
            distil(folder, group, "two")
            distil(folder, group, "hsdp", replicas=group.world)
            distil(folder, group, "micro", micro_batch=1)
            distil(folder, group, "resumed", stop_after=3)
            distil(folder, group, "resumed")
            distil(folder, group, "moved", stop_after=3)
        elif part == "killed":
            distil(folder, group, "killed", kill=True, tokens=STEP * 100)
        elif part == "three":
            distil(folder, group, "moved")


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except UserError as error:
        sys.exit(f"error: {error}")
