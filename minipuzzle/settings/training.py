"""How weights are trained, by every command that trains. No torch."""

from __future__ import annotations

import typing
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from minipuzzle.identity import Plain, changed
from minipuzzle.settings.bounds import BATCHES, FASTEST, SEEDS, TOKENS, require, within

Precision = Literal["bf16", "fp8", "fp8-emulated"]
Checkpointing = Literal["auto", "on", "off"]

RATE, ADAPT_RATE = 5e-4, 4e-3
"""Of a training and of an adapter's where no learning rate is named and none is tried."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train. ``tokens`` is the whole budget; a batch counts blocks of the data's block
    length.

    Anchors: arXiv:2504.11409 (Minitron-SSM: cosine, 60 warm-up steps), NVIDIA Model Optimizer's
    pruning examples (distilling wants about a fifth of the pre-training peak); beta2 0.95 and
    clipping at 1.0 as Megatron-LM. A ``learning_rate`` of 0 is the command's own: distill tries
    several, adapt takes ADAPT_RATE, pretrain RATE.

    ``micro_batch`` blocks go through a process's model at once (0: its whole share of the batch).
    Under torchrun the model is sharded over all processes, or over each of ``replicas`` groups of
    them (HSDP). ``precision`` is that of the blocks' products: FP8 for all but ``bf16_ends`` blocks
    at either end. The state is saved ``save_every`` seconds after the last save was on disk, or
    later where saves would take more than a tenth of the time (``training.pace``), and at the end.
    ``activation_checkpointing`` "auto" recomputes blocks in the backward pass where a GPU's memory
    would not hold them.
    """

    tokens: int = 2_000_000
    learning_rate: float = 0.0
    batch: int = 8
    warmup: float = 0.05
    final_ratio: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    save_every: float = 30.0
    isolate_documents: bool = False
    micro_batch: int = 0
    replicas: int = 1
    tensorboard: bool = False
    precision: Precision = "bf16"
    bf16_ends: int = 4
    activation_checkpointing: Checkpointing = "auto"

    def __post_init__(self) -> None:
        within(
            self,
            tokens=TOKENS,
            batch=BATCHES,
            micro_batch=(0, BATCHES[1]),
            learning_rate=(0.0, FASTEST),
            seed=SEEDS,
            warmup=(0.0, 0.999),
            final_ratio=(0.0, 1.0),
            weight_decay=(0.0, 10.0),
            clip=(1e-9, 1e9),
            save_every=(0.0, 1e9),
            replicas=(1, 65_536),
            bf16_ends=(0, 10_000),
        )
        require_precision(self.precision)
        require(
            self.activation_checkpointing in typing.get_args(Checkpointing),
            f"activation_checkpointing {self.activation_checkpointing!r}",
            "auto, on or off",
        )

    def steps(self, length: int) -> int:
        """The number of optimiser steps that use up the tokens (rounded up)."""
        return ceil(self.tokens / (self.batch * length))

    def fixed(self) -> dict[str, Plain]:
        """The settings that a run keeps from start to end; it may go on with other values of the
        others.
        """
        return changed(self, without=CHANGEABLE)

    def decisive(self) -> dict[str, Plain]:
        """The settings on which a finished run's result depends: how often it was saved is none of
        them.
        """
        return changed(self, without=("save_every", "tensorboard"))

    def at(self, rate: float) -> Training:
        """The same with this learning rate where none is named."""
        return self if self.learning_rate else replace(self, learning_rate=rate)


CHANGEABLE = (
    "batch",
    "micro_batch",
    "learning_rate",
    "clip",
    "save_every",
    "activation_checkpointing",
    "replicas",
    "tensorboard",
)
"""A run counts tokens, so that it can go on with another batch, or with a lower rate after a loss
that rose.
"""


def require_precision(precision: str) -> None:
    known = typing.get_args(Precision)
    require(precision in known, f"precision {precision!r}", " or ".join(map(repr, known)))
