"""How evenly routers spread tokens over experts while a model is trained.

Choices are counted on the device, also in a step that a CUDA graph replays, and read when the log
is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from minipuzzle.model import HybridLM
from minipuzzle.model.base import ResidualBlock
from minipuzzle.ranks import Ranks
from minipuzzle.records import ExpertLoadRecord, load_log

LOAD, UNUSED = "expert_load.", "unused_experts."
"""Columns of the log, before the number of a block: the most tokens of an expert over their mean,
and how many experts had none.
"""


class ExpertLoad:
    """The tokens that each expert of each block was given since ``row`` was last asked, in
    ``before`` and counted here.
    """

    def __init__(self, model: HybridLM, ranks: Ranks) -> None:
        self.ranks, self.before = ranks, list[list[float]]()
        device = model.device
        self.counts = {
            i: torch.zeros(_experts(model, i), dtype=torch.int64, device=device)
            for i, block in enumerate(model.architecture.blocks)
            if block.routers
        }
        self.seen = {i: counts.clone() for i, counts in self.counts.items()}
        self.corrections = {
            i: [model.get_buffer(f"blocks.{i}.{name}") for name in block.buffers]
            for i, block in enumerate(model.architecture.blocks)
            if i in self.counts
        }
        self.handles = [
            cast(ResidualBlock, model.blocks[i]).watch("chosen", partial(_count, counts))
            for i, counts in self.counts.items()
        ]

    @property
    def fields(self) -> list[str]:
        """The columns of its rows."""
        return [f"{column}{i}" for i in self.counts for column in (LOAD, UNUSED)]

    def given(self) -> list[list[float]]:
        """By block and expert, from all processes, which must ask together."""
        if not self.counts:
            return []
        sizes = [len(counts) for counts in self.counts.values()]
        here = torch.cat(list(self.counts.values())).cpu().numpy().astype(np.float64)
        found = np.split(self.ranks.sum(here), np.cumsum(sizes)[:-1])
        before = self.before or [[0.0] * size for size in sizes]
        return [(a + b).tolist() for a, b in zip(found, before, strict=True)]

    def row(self) -> dict[str, float]:
        """The numbers of ``fields``; counting begins anew."""
        row = {}
        for i, given in zip(self.counts, self.given(), strict=True):
            row[f"{LOAD}{i}"] = max(given) * len(given) / max(1.0, sum(given))
            row[f"{UNUSED}{i}"] = float(given.count(0))
        self.before = []
        for counts in (*self.counts.values(), *self.seen.values()):
            counts.zero_()
        return row

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile choices are not counted: the model writes, or is measured."""
        before = {i: counts.clone() for i, counts in self.counts.items()}
        yield
        for i, counts in self.counts.items():
            counts.copy_(before[i])

    def balance(self, amount: float) -> None:
        """Move what corrects each router's choice by ``amount``: up for experts that were given
        fewer tokens than their mean since the last call, down for those that were given more.

        Source: arXiv:2408.15664 (no loss is added). Nothing waits for the device.
        """
        for i, counts in self.counts.items():
            given = counts - self.seen[i]  # [experts], of this step
            self.seen[i].copy_(counts)
            if self.ranks.world > 1:
                torch.distributed.all_reduce(given)
            missing = given.sum() - given * len(given)  # > 0: fewer than the mean
            for correction in self.corrections[i]:
                correction.add_(missing.sign(), alpha=amount)


@contextmanager
def expert_load(model: HybridLM, ranks: Ranks) -> Iterator[ExpertLoad]:
    """Meanwhile the choices of the model's routers are counted."""
    load = ExpertLoad(model, ranks)
    try:
        yield load
    finally:
        for handle in load.handles:
            handle.remove()


def summary(row: dict[str, float]) -> dict[str, float]:
    """What is shown of a row: the largest load and all unused experts; nothing without experts."""
    loads = [value for name, value in row.items() if name.startswith(LOAD)]
    unused = [value for name, value in row.items() if name.startswith(UNUSED)]
    return {"load": max(loads), "unused": int(sum(unused))} if loads else {}


def last_load(log: Path) -> dict[str, ExpertLoadRecord]:
    """By number of the block, what the last row of a training's log says; nothing without
    experts.
    """
    row = load_log(log)[-1]
    return {
        name.removeprefix(LOAD): ExpertLoadRecord(
            max_over_mean=value, unused=int(row[name.replace(LOAD, UNUSED)])
        )
        for name, value in row.items()
        if name.startswith(LOAD)
    }


def _experts(model: HybridLM, block: int) -> int:
    return len(model.get_parameter(f"blocks.{block}.{model.architecture.blocks[block].routers[0]}"))


def _count(counts: Tensor, chosen: Tensor) -> None:
    flat = chosen.flatten()
    counts.scatter_add_(0, flat, torch.ones_like(flat))
