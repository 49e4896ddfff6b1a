"""Run by tests/test_parallel.py under torchrun: python world.py FOLDER PART. Results lie in FOLDER
for the test to read.
"""

import os
import signal
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from helpers import heard
from safetensors.torch import save_file

from minipuzzle.adapters import attach, make_plan
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, pack
from minipuzzle.errors import UserError
from minipuzzle.kernels import choose, fp8
from minipuzzle.model import HybridLM, frozen_model, load_model, precision, set_precision
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.settings import Training
from minipuzzle.training import distillation, train
from minipuzzle.training import prepare as preparing
from minipuzzle.training.parallel import gather, load_sharded

CPU = torch.device("cpu")
DEVICE = torch.device(os.environ.get("WORLD_DEVICE", "cpu"))
STEP = 32 * 6
_FP8 = "fp8" if DEVICE.type == "cuda" else "fp8-emulated"
FP8 = {"precision": _FP8, "teacher_precision": _FP8, "bf16_ends": 0}
SETTINGS = Training(tokens=STEP * 6, learning_rate=1e-3, batch=6, save_every=1e9)


def text() -> TokenBlocks:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 61, (40 * 32,), generator=generator).numpy().astype("uint32")
    return pack([tokens], block_length=32, vocab_size=61, seed=0, fingerprint="test", text_bytes=1)


def models(folder: Path, group: Ranks, settings: Training = SETTINGS, whole: str = ""):
    """Student and teacher, sharded where there are several processes, but for the ``whole`` one;
    the student's weights on the CPU where they are to be.
    """
    for name in ("student", "teacher"):
        checkpoint = Checkpoint.open(folder / name)
        away = settings.offload and name == "student"
        if (group.world == 1 and not away) or name == whole:
            yield load_model(checkpoint, device=group.device)
        else:
            empty = HybridLM(checkpoint.architecture, device="meta", kernels=choose(group.device))
            yield load_sharded(empty, checkpoint, group, settings, away)


class Sent:
    """``bytes`` that one of two processes has sent: of what FSDP2 gathers or sums, its part."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        for names in (
            ("all_gather_single", "all_gather_into_tensor"),
            ("reduce_scatter_single", "reduce_scatter_tensor"),
        ):  # as torch from 2.13 on calls them, and before
            name = next(name for name in names if hasattr(dist, name))
            patch.setattr(dist, name, partial(self._counted, getattr(dist, name)))

    def _counted(self, operation, *args, **options):
        both = [x for x in (*args, *options.values()) if isinstance(x, torch.Tensor)]
        self.bytes += min(tensor.nbytes for tensor in both)
        return operation(*args, **options)


@contextmanager
def roomy():
    """As where each process has a GPU with memory for all; what is said there."""
    with pytest.MonkeyPatch.context() as patch, heard() as said:
        patch.setattr(preparing, "free_for_each", lambda ranks: 1e15)
        patch.setattr("torch.cuda.memory_allocated", lambda device=None: 0)
        yield said


def distil(
    folder: Path,
    group: Ranks,
    run: str,
    *,
    stop_after: int = 0,
    kill=False,
    adapter: str = "",
    teacher_precision: str = "bf16",
    on_policy=lambda teacher: None,
    whole: str = "",
    counts: Sent | None = None,
    **settings,
) -> None:
    """Distil in FOLDER/run; SIGTERM comes to the last process in step ``stop_after``. Writes
    FOLDER/run.safetensors, and FOLDER/run.sent, the bytes of a pass that are ``counted``.
    """
    training = replace(SETTINGS, **settings)
    student, teacher = models(folder, group, training, whole)
    if adapter:
        attach(student, make_plan(student.architecture, adapter, rank=2, target="all"))
    set_precision(teacher, teacher_precision, 1)
    objective, steps = distillation(teacher.requires_grad_(False)), 0
    passed = list[int]()

    def counted(*args):
        nonlocal steps
        steps += 1
        if counts and steps in (2, 4):
            passed.append(counts.bytes)
        if kill and steps == 5 and group.rank == 0:
            print(f"killed at {time.time()}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if steps == stop_after and group.rank == group.world - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return objective(*args)

    counted.capturable = False  # each step is to be counted
    with nullcontext() if not stop_after else pytest.raises(SystemExit, match=r"^0$"):
        train(
            student,
            counted if stop_after or kill or counts else objective,
            text(),
            training,
            folder / run,
            identity="x",
            ranks=group,
            teacher=teacher,
            on_policy=on_policy(teacher),
        )
    if stop_after:
        return
    named = (*student.named_parameters(), *student.named_buffers())
    trained = {name: gather(student, name) for name, _ in named}
    if group.rank == 0:
        save_file(trained, folder / f"{run}.safetensors")
        if counts:
            (folder / f"{run}.sent").write_text(f"{(passed[1] - passed[0]) // 2}")


class Borrower(torch.nn.Linear):
    """As te.Linear is called, but its products are FP32's: what is left to see is whose weights it
    multiplies with.
    """

    def forward(self, x, is_first_microbatch):
        assert is_first_microbatch is None
        assert type(self.weight) is torch.nn.Parameter  # gathered
        return super().forward(x)


def engine_of_borrowers() -> None:
    """transformer-engine as far as ``engine_linear`` uses it."""
    engine = SimpleNamespace(Linear=Borrower, autocast=lambda **_: nullcontext())
    fp8.engine, precision.require_engine = lambda: (engine, None), lambda device: None


def more_in_two(folder: Path, group: Ranks) -> None:
    """Adapters, FP8, and both; transformer-engine's way with weights, where it is not there."""
    distil(folder, group, "adapter", adapter="tl6")
    distil(folder, group, "adapter-resumed", adapter="tl6", stop_after=3)
    distil(folder, group, "adapter-resumed", adapter="tl6")
    distil(folder, group, "adapter-moved", adapter="tl6", stop_after=3)
    distil(folder, group, "averaged", average=0.5)
    distil(folder, group, "context", stop_after=3)
    distil(folder, group, "context", context_parallel=2, micro_batch=3)
    distil(folder, group, "offload", offload=True, average=0.5)
    distil(folder, group, "offload-moved", stop_after=3)
    distil(folder, group, "offload-moved", offload=True, context_parallel=2, micro_batch=3)
    with roomy():
        distil(folder, group, "experts", expert_parallel=2, stop_after=3)
    distil(folder, group, "experts", expert_parallel=2, replicas=2)
    distil(folder, group, "experts-moved", expert_parallel=2, stop_after=3)
    distil(folder, group, "fp8", **FP8)
    distil(folder, group, "adapter-fp8", adapter="lora", activation_checkpointing="on", **FP8)
    if DEVICE.type == "cpu":
        engine_of_borrowers()
        distil(folder, group, "borrowed", precision="fp8", teacher_precision="fp8", bf16_ends=0)


@torch.no_grad()
def frozen_in_two(folder: Path, group: Ranks) -> None:
    """A model that is measured, with matrices in BF16 and the rest in FP32 as on CUDA: in shards it
    computes the very same.
    """
    checkpoint, x = Checkpoint.open(folder / "student"), torch.arange(60, device=DEVICE)[None]
    whole, shards = (
        frozen_model(
            checkpoint.architecture, torch.device("cuda"), kernels=choose(DEVICE), where=where
        )
        for where in (DEVICE.type, "meta")
    )
    for name, tensor in whole.state_dict().items():
        checkpoint.read_into(name, tensor)
    shards = load_sharded(shards, checkpoint, group)
    assert {name: p.dtype for name, p in shards.named_parameters()} == {
        name: p.dtype for name, p in whole.named_parameters()
    }
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert torch.equal(whole(x), shards(x))


def divided_in_two(folder: Path, group: Ranks) -> None:
    """All in shards, and whole what fits; what of it is sent."""
    with pytest.MonkeyPatch.context() as patch:
        counts = Sent(patch)
        distil(folder, group, "two", counts=counts)
        with roomy() as said:
            distil(folder, group, "whole", whole="teacher", counts=counts)
            often = {"micro_batch": 1, "activation_checkpointing": "on"}
            distil(folder, group, "gathered", counts=counts, **often)
    for taught in ("whole on each", "in shards"):
        assert any(f"teacher {taught}, the student gathered once" in line for line in said)


def main(folder: Path, part: str) -> None:
    with ranks(DEVICE) as group:
        if part == "two":
            divided_in_two(folder, group)
            frozen_in_two(folder, group)
            distil(folder, group, "hsdp", replicas=group.world)
            distil(folder, group, "micro", micro_batch=1, activation_checkpointing="on")
            distil(folder, group, "resumed", stop_after=3)
            distil(folder, group, "resumed")
            distil(folder, group, "moved", stop_after=3)
            more_in_two(folder, group)
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
