"""How weights are trained, by every command that trains. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar, Literal

from minipuzzle.errors import UserError
from minipuzzle.identity import Plain, changed
from minipuzzle.settings.bounds import BATCHES, FASTEST, SEEDS, TOKENS, settle
from minipuzzle.settings.counts import share, token_count
from minipuzzle.settings.declare import setting

Precision = Literal["bf16", "fp8", "fp8-emulated"]
Optimizer = Literal["adamw", "adamw-8bit", "adamw-8bit-bf16"]
Trained = Literal["auto", "all", "all-but-routers", "norms", "routers"]

BOARDS = ("tensorboard", "wandb", "mlflow")
ALL_OR_NONE = ("auto", "on", "off")
RATE, ADAPT_RATE = 5e-4, 4e-3
"""Of a training and of an adapter's where no learning rate is named and none is tried."""
SCHEDULE, MEMORY, SAVES = (
    "Optimiser and schedule",
    "Precision, memory and processes",
    "Saves and logs",
)


def parse_boards(text: str) -> tuple[str, ...]:
    """The names in "tensorboard,wandb". Raises: UserError for one that is not known."""
    names = tuple(filter(None, text.split(",")))
    if wrong := [name for name in names if name not in BOARDS]:
        raise UserError(
            "training.log_to names what is not known.",
            got=", ".join(wrong),
            allowed=f"{', '.join(BOARDS)}, with commas between",
            next="Change training.log_to.",
        )
    return names


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
    them (HSDP). ``context_parallel`` neighbours have a part of each sequence each
    (``model.context_parallel``), and ``expert_parallel`` neighbours the experts of each block
    (``model.expert_parallel``). ``precision`` is that of the blocks' GEMMs: FP8 for all but
    routed experts and ``bf16_ends`` blocks at either end. The state is saved ``save_every`` seconds
    after the last save was on disk, or later where saves would take more than a tenth of the time
    (``training.pace``), and at the end.
    ``activation_checkpointing`` "auto" recomputes blocks in the backward pass where a GPU's memory
    would not hold them, "mlp,mamba" those of these kinds in any case (``named_kinds``). ``train``
    names the weights (``training.trained``): routers are the matrices that choose experts; what
    corrects the choice is no parameter and stays in any case.
    ``offload`` holds FP32 weights, their gradients and moments in the CPU's memory, where the step
    is taken (``parallel.shard``).
    ``optimizer``: see ``training.optimizers``. With ``average`` the result is the mean of the
    weights after each step of the last share of the tokens (``training.average``).
    """

    SECTION: ClassVar[str] = "training"
    PANEL: ClassVar[str] = "Training"

    tokens: int = token_count(
        2_000_000, "Tokens to train on: 2000000, 3M, 63B.", within=TOKENS, common=True
    )
    learning_rate: float = setting(
        0.0, "Peak learning rate.", unit="rate", shown="auto", within=(0.0, FASTEST), common=True
    )
    batch: int = setting(8, "Blocks of text in a step.", unit="blocks", within=BATCHES, common=True)
    warmup: float = setting(
        0.05,
        "Share of the steps in which the learning rate rises.",
        unit="share",
        within=(0.0, 0.999),
        panel=SCHEDULE,
    )
    final_ratio: float = setting(
        0.1,
        "Learning rate at the end of the cosine, as a share of its peak.",
        unit="share",
        within=(0.0, 1.0),
        panel=SCHEDULE,
    )
    weight_decay: float = setting(
        0.1, "Weight decay of AdamW, on matrices.", within=(0.0, 10.0), panel=SCHEDULE
    )
    clip: float = setting(
        1.0, "Largest norm of the gradient.", unit="norm", within=(1e-9, 1e9), panel=SCHEDULE
    )
    seed: int = setting(0, "Seed of the training.", within=SEEDS, panel=SCHEDULE)
    optimizer: Optimizer = setting(
        "adamw",
        "AdamW, the same with moments in 8 bits, or with matrices in BF16 too (bytes a parameter,"
        " gradients included: 16, 10, 6).",
        panel=MEMORY,
    )
    offload: bool = setting(
        False,
        "Hold FP32 weights, gradients and moments in CPU memory, and step there (FSDP2).",
        panel=MEMORY,
    )
    save_every: float = setting(
        30.0,
        "Fewest seconds between two training checkpoints.",
        unit="seconds",
        within=(0.0, 1e9),
        panel=SAVES,
    )
    isolate_documents: bool = setting(
        False, "Let no token see another document of its block.", panel=SCHEDULE
    )
    train: Trained = setting(
        "auto",
        "Which weights are trained; auto: all by pretrain, all but routers of experts by distill.",
        panel=SCHEDULE,
    )
    average: float = share(
        0.0,
        "Share of the steps, the last ones, whose weights are averaged into the result.",
        panel=SCHEDULE,
    )
    balance: float = setting(
        0.0,
        "How far a step moves the correction of an expert with fewer tokens than the others; 0:"
        " never.",
        within=(0.0, 1.0),
        panel=SCHEDULE,
    )
    micro_batch: int = setting(
        0,
        "Blocks that go through the model of a process at once.",
        unit="blocks",
        shown="its share of the batch",
        within=(0, BATCHES[1]),
        panel=MEMORY,
    )
    replicas: int = setting(
        1,
        "Whole copies of the model under torchrun, each sharded over its processes (HSDP).",
        within=(1, 65_536),
        panel=MEMORY,
    )
    context_parallel: int = setting(
        1,
        "Processes under torchrun that share each sequence, a part each.",
        within=(1, 65_536),
        panel=MEMORY,
    )
    expert_parallel: int = setting(
        1,
        "Processes under torchrun that share the experts of each block; tokens are sent to them.",
        within=(1, 65_536),
        panel=MEMORY,
    )
    log_to: tuple[str, ...] = setting(
        (),
        "Who gets the numbers of log.csv besides: tensorboard, wandb, mlflow, with commas between.",
        shown="nobody",
        parse=parse_boards,
        panel=SAVES,
    )
    precision: Precision = setting("bf16", "GEMM precision.", panel=MEMORY, common=True)
    bf16_ends: int = setting(
        4,
        "Blocks at either end that FP8 leaves in BF16.",
        unit="blocks",
        within=(0, 10_000),
        panel=MEMORY,
    )
    activation_checkpointing: str = setting(
        "auto",
        "Keep only the input of each block, and recompute the rest in the backward pass: auto, on,"
        " off, or only of blocks of some kinds: mlp,mamba.",
        panel=MEMORY,
    )

    def __post_init__(self) -> None:
        settle(self)
        parse_boards(",".join(self.log_to))

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
        return changed(self, without=("save_every", "log_to"))

    def trains(self, usual: Trained) -> Trained:
        """Which weights, where a command trains the ``usual`` ones."""
        return usual if self.train == "auto" else self.train

    def at(self, rate: float) -> Training:
        """The same with this learning rate where none is named."""
        return self if self.learning_rate else replace(self, learning_rate=rate)


def named_kinds(checkpointing: str) -> frozenset[str]:
    """The kinds of blocks that ``activation_checkpointing`` names: none of "auto", "on", "off"."""
    return frozenset() if checkpointing in ALL_OR_NONE else frozenset(checkpointing.split(","))


CHANGEABLE = (
    "batch",
    "micro_batch",
    "learning_rate",
    "clip",
    "save_every",
    "activation_checkpointing",
    "replicas",
    "context_parallel",
    "expert_parallel",
    "offload",
    "log_to",
)
"""A run counts tokens, so that it can go on with another batch, or with a lower rate after a loss
that rose.
"""
