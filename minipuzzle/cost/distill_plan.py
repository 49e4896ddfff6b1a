"""A distillation on paper: bytes on each GPU by term, GPUs needed, tokens a second and days, from
two configs alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.cost.exchange import sent_bytes, weight_bytes
from minipuzzle.cost.training import mean_flops
from minipuzzle.errors import UserError
from minipuzzle.memory import CARDS, Peak
from minipuzzle.memory.cards import PLANNED
from minipuzzle.memory.division import Division, divide, fits
from minipuzzle.memory.optimizers import state_bytes_each
from minipuzzle.memory.training import (
    BF16,
    GRADIENT,
    HELD_BACK,
    MASTER,
    STATES_AT_ONCE,
    offloaded_peak,
    state_bytes,
    training_peak,
)
from minipuzzle.settings.lengths import Lengths
from minipuzzle.settings.training import Optimizer

GPUS = (1, 2, 4, *range(8, 1025, 8))
SHOWN = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FAR = (512, 1024)
"""Shown besides where links are named."""
NODE = 8
DAY = 86400


WITH, WITHOUT = "checkpointing", "all kept"
"""Of the activations: recomputed in the backward pass, or held."""


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A number of GPUs: bytes on each, WITH activation checkpointing and WITHOUT, and what is
    ``whole`` on each then (``Division.whole``); of a micro-batch the bytes that each sends, the
    seconds of arithmetic, and of exchange where links are known; of the CPU's memory the bytes for
    each GPU, where the optimiser is offloaded.
    """

    gpus: int
    bytes: dict[str, int]
    whole: dict[str, str]
    exchanged: int
    tokens_per_second: float
    days: float
    seconds: float
    exchange: float | None
    cpu_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class DistillPlan:
    """A student and a teacher, ``micro_batch`` blocks of ``length`` tokens a GPU at once (the
    longest of the ``lengths`` in turn, where there are several), or the part of each that a GPU has
    where ``context_parallel`` of them share it; all parameters sharded over all GPUs (FSDP2), but
    what each may have whole (``division``), and experts over ``expert_parallel`` of them where it
    is not 1; ``tokens`` in all at ``mfu`` of the peak of the ``device`` named. Where all GPUs
    together take fewer blocks at once than a ``batch`` (0: they take one), a step adds up
    gradients. Activation checkpointing is of the kinds ``recomputed`` (none named: of all).
    ``teacher_ends`` is that of ``training_peak``.

    ``links`` are the bytes a second that each GPU sends, and at the same time receives, as measured
    in an all-gather: among the GPUs of one machine (``NODE``), and beyond. Where they are named,
    the exchange of a micro-batch runs beside its arithmetic, and the longer of both counts.
    """

    student: Architecture
    teacher: Architecture
    tokens: int
    length: int
    micro_batch: int = 1
    batch: int = 0
    optimizer: Optimizer = "adamw"
    offload: bool = False
    recomputed: frozenset[str] = frozenset()
    lengths: Lengths = ()
    context_parallel: int = 1
    teacher_ends: int | None = None
    expert_parallel: int = 1
    mfu: float = 0.35
    device: str = "h100"
    links: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if (
            not 0 < self.mfu < 1
            or self.device not in CARDS
            or min(self.tokens, self.length, self.micro_batch) < 1
        ):
            raise UserError(
                "This plan cannot be made.",
                got=f"mfu {self.mfu}, device {self.device}, {self.tokens} tokens",
                allowed=f"an mfu between 0 and 1, one of {', '.join(CARDS)}, at least 1 token",
                next="Change the option.",
            )

    def peak(self, gpus: int, checkpointing: bool) -> Peak:
        """Bytes on each of ``gpus`` GPUs, with activation ``checkpointing`` or without."""
        return self._peak(gpus, self.division(gpus, checkpointing))

    def division(self, gpus: int, checkpointing: bool | None = None) -> Division:
        """Of ``gpus`` GPUs of the ``device``: what is whole on each, with activation
        ``checkpointing`` or without; None: as a run chooses.
        """
        free = CARDS[self.device].memory - HELD_BACK
        spares = gpus > 1 and not self.offload
        may = self.expert_parallel == 1 and BF16 * self.teacher.parameters < free
        wanted = self.recomputed if checkpointing is None else checkpointing
        choosing = checkpointing is None and not self.recomputed
        return divide(
            lambda division: fits(self._peak(gpus, division), free, loaded=False),
            Division(recomputed=self._again(wanted)),
            every=self._again(True) if choosing else None,
            whole_teacher=spares and may,
            gathered=spares,
        )

    def _again(self, checkpointing: object) -> frozenset[str]:
        """Kinds that are recomputed."""
        every = self.recomputed or frozenset(self.student.kinds)
        return every if checkpointing else frozenset()

    def _peak(self, gpus: int, division: Division) -> Peak:
        return training_peak(
            self.student,
            self.length * self.micro_batch // self.context_parallel,
            teacher=self.teacher,
            teacher_ends=self.teacher_ends,
            gpus=gpus,
            context_parallel=self.context_parallel,
            expert_parallel=self.expert_parallel,
            recomputed=division.recomputed,
            whole_teacher=division.whole_teacher,
            gathered=division.gathered,
            optimizer=self.optimizer,
            offload=self.offload,
            accumulates=self.batch * self.context_parallel > gpus * self.micro_batch,
        )

    def cpu_peak(self, gpus: int) -> Peak | None:
        """Bytes of the CPU's memory for each of ``gpus`` GPUs where the optimiser is offloaded."""
        return offloaded_peak(self.student, gpus) if self.offload else None

    def over_pcie(self, gpus: int) -> tuple[int, int]:
        """Bytes to each GPU and from it for a micro-batch where the optimiser is offloaded: FP32
        weights in both passes, those of final norm and head once; FP32 gradients.
        """
        count = self.student.parameters
        stay = (self.student.vocab_size + 1) * self.student.hidden
        return MASTER * (2 * count - stay) // gpus, GRADIENT * count // gpus

    def least_gpus(self, card: str, checkpointing: bool) -> int | None:
        """The fewest GPUs (1, 2, 4 or a multiple of 8) of a card of ``PLANNED`` that hold it; None
        where 1,024 do not.
        """
        room = PLANNED[card].memory
        counts = (n for n in GPUS if n % self._fewest == 0)
        shards = Division(recomputed=self._again(checkpointing))
        return next((n for n in counts if self._peak(n, shards).total <= room), None)

    @property
    def _fewest(self) -> int:
        """GPUs come in multiples of it."""
        return lcm(self.context_parallel, self.expert_parallel)

    @property
    def flops_per_token(self) -> int:
        """Without what is computed twice, as MFU counts."""
        return mean_flops(self.student, self.lengths or ((self.length, 1.0),), self.teacher)

    def tokens_per_second(self, gpus: int) -> float:
        """Of all GPUs together."""
        longer = max(self.seconds(), self.exchange(gpus) or 0.0)
        return gpus * self._at_once / longer

    @property
    def _at_once(self) -> float:
        return self.length * self.micro_batch / self.context_parallel

    def seconds(self) -> float:
        """Of a micro-batch's arithmetic."""
        return self._at_once * self.flops_per_token / (self.mfu * CARDS[self.device].bf16)

    def exchanged(self, gpus: int) -> int:
        """Bytes that each GPU sends for a micro-batch."""
        together, found = self.expert_parallel, self.division(gpus)
        return weight_bytes(self.student, self.teacher, gpus, together, found) + self.sent

    @property
    def sent(self) -> int:
        """Of them those to experts and back."""
        return sent_bytes(self.student, self.teacher, self._at_once, self.expert_parallel)

    def exchange(self, gpus: int) -> float | None:
        """Seconds of a micro-batch's exchange; None where no link is named."""
        if not self.links:
            return None
        far, near = (self.links[0 if n <= NODE else -1] for n in (gpus, self.expert_parallel))
        return (self.exchanged(gpus) - self.sent) / far + self.sent / near

    def gpu_hours(self) -> float:
        """For all tokens, whatever the number of GPUs."""
        return self.tokens / self.tokens_per_second(1) / 3600

    def disk(self) -> dict[str, int]:
        """Bytes of disk by what takes them, where one candidate is trained; the student is written
        in BF16.
        """
        student = self.student.parameters
        return {
            "candidate": BF16 * student,
            "training checkpoints": STATES_AT_ONCE
            * state_bytes(student, each=state_bytes_each(self.student, self.optimizer)),
            "student": BF16 * student,
        }

    @property
    def rows(self) -> list[PlanRow]:
        """One for each number of GPUs of ``SHOWN``."""
        return [
            self._row(n)
            for n in (self._fewest * n for n in (*SHOWN, *FAR))
            if n <= (GPUS if self.links else SHOWN)[-1]
        ]

    def _row(self, gpus: int) -> PlanRow:
        divisions = {c: self.division(gpus, c == WITH) for c in (WITH, WITHOUT)}
        speed = self.tokens_per_second(gpus)
        return PlanRow(
            gpus=gpus,
            bytes={c: self._peak(gpus, found).total for c, found in divisions.items()},
            whole={c: found.whole for c, found in divisions.items()},
            exchanged=self.exchanged(gpus),
            tokens_per_second=speed,
            days=self.tokens / speed / DAY,
            seconds=self.seconds(),
            exchange=self.exchange(gpus),
            cpu_bytes=None if (cpu := self.cpu_peak(gpus)) is None else cpu.total,
        )

    @cached_property
    def least(self) -> dict[str, dict[str, int | None]]:
        """``least_gpus`` of each card, with activation checkpointing and without."""
        return {
            card: {c: self.least_gpus(card, c == WITH) for c in (WITH, WITHOUT)} for card in PLANNED
        }

    @property
    def shown_on(self) -> int:
        """The number of GPUs whose memory is shown by its terms: the fewest of 80 GB."""
        return self.least["80 GB"][WITH] or SHOWN[-1]

    def json(self) -> dict[str, Any]:
        """For scripts."""
        active = {
            "teacher_active": self.teacher.active_if_fewer,
            "student_active": self.student.active_if_fewer,
        }
        return {
            "teacher_parameters": self.teacher.parameters,
            "student_parameters": self.student.parameters,
            **{name: n for name, n in active.items() if n is not None},
            "tokens": self.tokens,
            "length": self.length,
            "micro_batch": self.micro_batch,
            **({"context_parallel": n} if (n := self.context_parallel) > 1 else {}),
            **({"expert_parallel": n} if (n := self.expert_parallel) > 1 else {}),
            "batch": self.batch,
            "optimizer": self.optimizer,
            **({"offload": True} if self.offload else {}),
            **({} if self.teacher_ends is None else {"teacher_ends": self.teacher_ends}),
            **({"recomputed": sorted(self.recomputed)} if self.recomputed else {}),
            "mfu": self.mfu,
            **({"links": list(self.links)} if self.links else {}),
            "device": self.device,
            "flops_per_token": self.flops_per_token,
            "gpu_hours": self.gpu_hours(),
            "rows": [vars(row) for row in self.rows],
            "least_gpus": self.least,
            "terms_on": self.shown_on,
            "terms": self.peak(self.shown_on, True).terms,
            **({} if (cpu := self.cpu_peak(self.shown_on)) is None else {"cpu_terms": cpu.terms}),
            "disk": self.disk(),
        }
