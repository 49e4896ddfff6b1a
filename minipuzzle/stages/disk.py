"""The disk that a training takes, said and checked before anything is computed for it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.cost.training import STATES_AT_ONCE, state_bytes
from minipuzzle.distill.shards import memory_bytes
from minipuzzle.errors import UserError
from minipuzzle.report.units import bytes_
from minipuzzle.stages.job import say
from minipuzzle.stages.race import FINALISTS


@dataclass(frozen=True)
class Need:
    """``bytes`` of disk for ``what``; what lies in ``folder`` already is part of them."""

    what: str
    bytes: int
    folder: Path | None = None

    def missing(self) -> int:
        """The bytes that are still to be written."""
        found = [] if self.folder is None else self.folder.rglob("*")
        return max(0, self.bytes - sum(file.stat().st_size for file in found if file.is_file()))


def distill_needs(
    run: Path, parent: Checkpoint, students: Sequence[int], trained: Sequence[int]
) -> list[Need]:
    """Of a distillation of candidates with ``students`` parameters each, ``trained`` of them.

    At most FINALISTS heats and the best short run keep a state beside the leg in hand
    (``stages.race``); candidates and student have the parent's bytes a parameter.
    """
    each = parent.bytes / parent.parameters
    kept = 0 if len(students) == 1 else 1 if len(students) <= FINALISTS else FINALISTS
    states = (kept + STATES_AT_ONCE) * state_bytes(max(trained))
    return [
        Need("candidates", round(each * sum(students)), run / "candidates"),
        Need("training states", states, run / "distill"),
        Need("student", round(each * max(students))),
    ]  # fmt: skip


def training_needs(folder: Path, trained: int, result: str, result_bytes: int) -> list[Need]:
    """Of one training of ``trained`` parameters in ``folder``, and what is written in the end."""
    states = STATES_AT_ONCE * state_bytes(trained)
    return [Need("training states", states, folder), Need(result, result_bytes)]


def check_disk(stage: str, run: Path, needs: Sequence[Need], device: torch.device) -> None:
    """Say what a stage writes to the run's disk, and what memory a save takes.

    Raises: UserError where the disk has not that much free.
    """
    missing = {need.what: need.missing() for need in needs}
    total, free = sum(missing.values()), shutil.disk_usage(run).free
    parts = ", ".join(f"{what} {bytes_(size)}" for what, size in missing.items())
    if total > free:
        raise UserError(
            f"The disk of {run} has no room for what {stage} writes.", got=f"{bytes_(free)} free",
            allowed=f"at least {bytes_(total)}: {parts}",
            next="Free space, or name a run directory on a larger disk with --run.",
        )  # fmt: skip
    say(
        f"{stage}: {bytes_(total)} of disk are needed ({parts}), {bytes_(free)} are free; "
        f"a save takes {bytes_(memory_bytes(device))} of CPU memory beyond the model"
    )
