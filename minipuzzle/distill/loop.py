"""The one training loop: pretrain and distill differ only in the objective that they pass in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minipuzzle.artifacts import fingerprint
from minipuzzle.data import TokenBlocks
from minipuzzle.distill.checkpointing import load_state, save_state
from minipuzzle.distill.log import TrainingLog
from minipuzzle.distill.objectives import Objective
from minipuzzle.distill.schedule import learning_rate
from minipuzzle.errors import UserError
from minipuzzle.model import HybridLM, set_precision
from minipuzzle.recipe import Training

LOG_EVERY_STEPS = 10


def train(
    model: HybridLM, objective: Objective, blocks: TokenBlocks, settings: Training, folder: Path, *, identity: str,
    advance: Callable[[int, float], None] = lambda tokens, loss: None,
) -> float:  # fmt: skip
    """Train ``model`` in place and return the mean loss (nats per token) of the last logged steps.

    ``folder`` receives ``state.safetensors`` and ``log.csv``; when they are there already, from the same ``identity``
    and settings, training goes on after the last saved step, and the result equals an uninterrupted run's bit for bit
    on a CPU. ``advance(tokens, loss)`` is called as tokens are used up. FP32 master weights; on CUDA the products
    run in BF16, or in FP8 as ``settings.precision`` says; the trained model is a BF16 one again.
    Raises: UserError where the loss stops being a number, or the state is another run's.
    """
    device = next(model.parameters()).device
    steps = settings.steps(blocks.block_length)
    identity = fingerprint(identity, asdict(settings), blocks.fingerprint, model.architecture)
    optimizer = make_optimizer(model, settings)
    progress = load_state(folder, model, optimizer, identity) or {"step": 0, "seconds": 0.0}
    first, started = progress["step"], time.monotonic() - progress["seconds"]
    log = TrainingLog.resume(folder / "log.csv", step=first)
    advance(first * settings.batch * blocks.block_length, math.nan)
    last_saved, window = time.monotonic(), _Window(device)
    model.train()
    set_precision(model, settings.precision, settings.bf16_ends)
    for step, (tokens, documents) in enumerate(batches(blocks, settings, first, steps, device), start=first):
        rate = learning_rate(settings, step, steps)
        numbers = _step(model, objective, optimizer, tokens, documents, rate, settings.clip)
        window.add(numbers)
        done = step + 1
        if done % LOG_EVERY_STEPS == 0 or done == steps:
            mean_loss, mean_entropy, mean_norm = window.means()
            used = done * settings.batch * blocks.block_length
            _check_finite(mean_loss, done, folder)
            log.add(step=done, tokens=used, loss=mean_loss, teacher_entropy=mean_entropy, learning_rate=rate,
                    grad_norm=mean_norm, seconds=time.monotonic() - started)  # fmt: skip
            advance(used, mean_loss)
            if done == steps or time.monotonic() - last_saved > settings.checkpoint_seconds:
                log.write()
                where = {"identity": identity, "step": done, "steps": steps, "seconds": time.monotonic() - started}
                save_state(folder, model, optimizer, where)
                last_saved = time.monotonic()
    set_precision(model.eval(), "bf16", 0)
    return log.final_loss()


def batches(
    blocks: TokenBlocks, settings: Training, first: int, steps: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The batches of steps ``first``..``steps`` - 1 on ``device``: tokens [b, s] int64, documents [b, s] or None."""
    for step in range(first, steps):
        tokens, documents = blocks.batch(step, settings.batch, settings.seed)
        moved = torch.from_numpy(tokens)
        moved = moved.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else moved
        yield moved, torch.from_numpy(documents).to(device) if settings.isolate_documents else None


def make_optimizer(model: HybridLM, settings: Training) -> torch.optim.AdamW:
    """AdamW; matrices decay, while norms, biases, the convolution and the state's A, D and dt do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim == 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim != 2], "weight_decay": 0.0},
    ]
    on_gpu = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=on_gpu)


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """BF16 products on CUDA, FP32 on a CPU (where BF16 is slower)."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def _step(
    model: HybridLM, objective: Objective, optimizer: torch.optim.Optimizer, tokens: Tensor,
    documents: Tensor | None, rate: float, clip: float,
) -> Tensor:  # fmt: skip
    """[3]: loss and teacher's entropy in nats per token, gradient norm."""
    with mixed_precision(tokens.device):
        batch = objective(model, tokens, documents)
    mean = batch.total / batch.tokens
    mean.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return torch.stack((mean.detach().double(), batch.entropy / batch.tokens, norm.double()))


class _Window:
    """Means since the last log line, kept on the device: reading a loss each step would stall the GPU."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.count = 0

    def add(self, numbers: Tensor) -> None:
        self.sums += numbers
        self.count += 1

    def means(self) -> list[float]:
        result: list[float] = (self.sums / self.count).tolist()
        self.sums.zero_()
        self.count = 0
        return result


def _check_finite(loss: float, step: int, folder: Path) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"The loss is no longer a number at step {step}.", got=loss, allowed="a finite loss",
            next=f"Lower --learning-rate and delete {folder}, or check the data.",
        )  # fmt: skip
