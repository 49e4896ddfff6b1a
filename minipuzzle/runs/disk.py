"""The disk that a training takes, said and checked before anything is computed for it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.memory.training import MASTER, MOMENTS, STATES_AT_ONCE, state_bytes
from minipuzzle.runs.race import FINALISTS
from minipuzzle.training.shards import memory_bytes
from minipuzzle.units import bytes_

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Need:
    """``bytes`` of disk for ``what`` in ``folder``. What lies there already is part of them, but
    where it is written ``anew``, beside what is there.
    """

    what: str
    bytes: int
    folder: Path
    anew: bool = False

    def missing(self) -> int:
        """The bytes that are still to be written."""
        found = [] if self.anew else self.folder.rglob("*")
        return max(0, self.bytes - sum(file.stat().st_size for file in found if file.is_file()))

    def disk(self) -> Path:
        """The folder itself, or the nearest one above it that exists."""
        return next(
            path for path in (self.folder, *self.folder.absolute().parents) if path.is_dir()
        )


def distill_needs(
    run: Path,
    parent: Checkpoint,
    students: Sequence[int],
    trained: Sequence[int],
    *,
    averaged: bool,
    each: float = MASTER + MOMENTS,
) -> list[Need]:
    """Of a distillation of candidates with ``students`` parameters each, ``trained`` of them, at
    ``each`` bytes a state.

    At most FINALISTS screening runs and the best short run keep a state beside the leg in hand
    (``runs.race``); candidates and student have the parent's bytes a parameter.
    """
    written = parent.plain_bytes / parent.parameters
    copied = parent.copied_bytes
    kept = 0 if len(students) == 1 else 1 if len(students) <= FINALISTS else FINALISTS
    states = (kept + STATES_AT_ONCE) * state_bytes(max(trained), averaged=averaged, each=each)
    return [
        Need(
            "candidates",
            round(written * sum(students)) + copied * len(students),
            run / "candidates",
        ),
        Need("training checkpoints", states, run / "distill"),
        Need("student", round(written * max(students)) + copied, run / "student", anew=True),
    ]


def training_needs(
    folder: Path,
    trained: int,
    result: Path,
    result_bytes: int,
    *,
    averaged: bool,
    each: float = MASTER + MOMENTS,
) -> list[Need]:
    """Of one training of ``trained`` parameters in ``folder``, and of what is made in the end."""
    states = STATES_AT_ONCE * state_bytes(trained, averaged=averaged, each=each)
    return [
        Need("training checkpoints", states, folder),
        Need(result.name, result_bytes, result, anew=True),
    ]


def check_disk(stage: str, needs: Sequence[Need], device: torch.device) -> None:
    """Say what a stage writes to each disk, and what memory a save takes.

    Raises: UserError where a disk has not that much free.
    """
    disks = {need.disk().stat().st_dev: need.disk() for need in needs}
    for number, folder in disks.items():
        mine = {n.what: n.missing() for n in needs if n.disk().stat().st_dev == number}
        total, free = sum(mine.values()), shutil.disk_usage(folder).free
        parts = ", ".join(f"{what} {bytes_(size)}" for what, size in mine.items())
        if total > free:
            raise UserError(
                f"The disk of {folder} has no room for what {stage} writes.",
                got=f"{bytes_(free)} free",
                allowed=f"at least {bytes_(total)}: {parts}",
                next="Free space, or name a folder on a larger disk.",
            )
        log.info(f"{stage}: {bytes_(total)} of disk are needed ({parts}), {bytes_(free)} are free")
    log.info(f"{stage}: a save takes {bytes_(memory_bytes(device))} of CPU memory beyond the model")
