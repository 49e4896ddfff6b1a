"""Optimiser steps as ``train`` takes them, timed one by one."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import torch

from minipuzzle.data import TokenBlocks
from minipuzzle.model import HybridLM
from minipuzzle.ranks import Ranks
from minipuzzle.settings import Training
from minipuzzle.training.guard import Guard
from minipuzzle.training.update import micro_batches, update


def timed_steps(
    student: HybridLM,
    backward: Any,
    optimizer: torch.optim.Optimizer,
    blocks: TokenBlocks,
    settings: Training,
    group: Ranks,
    count: int,
) -> tuple[list[float], list[float]]:
    """(losses, seconds) of ``count`` steps, each to its end on the device."""
    losses, times = [], []
    for step in range(count):
        began = time.monotonic()
        done = update(
            student,
            backward,
            optimizer,
            micro_batches(blocks, settings, step * settings.batch, group, group.device),
            clip=1.0,
            guard=Guard(),
            ranks=group,
            votes=lambda: (),
            served=nullcontext,
        )
        if group.device.type == "cuda":
            torch.cuda.synchronize()
        losses.append(done.loss)
        times.append(time.monotonic() - began)
    return losses, times
