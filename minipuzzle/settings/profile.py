"""Which times of blocks are measured. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from minipuzzle.settings import job
from minipuzzle.settings.bounds import settle
from minipuzzle.settings.declare import setting
from minipuzzle.settings.workload import Generation, parse_work


@dataclass(frozen=True, kw_only=True)
class ProfileCommand:
    """Time every distinct block on this machine, so that search can meet budgets of time."""

    SECTION: ClassVar[str] = "profile"
    PANEL: ClassVar[str] = "Times"

    checkpoint: Path | None = job.checkpoint(
        "Checkpoint, or a folder with only a config.json (default: the run's checkpoint)."
    )
    workload: tuple[str, ...] = setting(
        (str(Generation()),),
        "Workload to time: b1,p8k,o1k is batch, prompt, output. Repeat it for more.",
        common=True,
    )
    widths: int = setting(
        6, "Sizes of each axis to time, from the whole to an eighth.", within=(1, 64), common=True
    )
    dtype: str = job.dtype()
    run: Path = job.run_directory()
    device: str = job.device()
    as_json: bool = job.as_json()

    def __post_init__(self) -> None:
        settle(self)
        self.works()

    def works(self) -> list[Generation]:
        """The workloads. Raises: UserError for a text that is none."""
        return [parse_work(text) for text in self.workload]
