"""What is measured of teacher, pruned model and student. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from minipuzzle.errors import UserError
from minipuzzle.settings import job
from minipuzzle.settings.bounds import settle
from minipuzzle.settings.data import Data
from minipuzzle.settings.declare import group, setting


@dataclass(frozen=True, kw_only=True)
class EvalCommand:
    """Measure teacher, pruned model and student side by side, on a text or on lm-eval's tasks."""

    SECTION: ClassVar[str] = "eval"
    PANEL: ClassVar[str] = "Tasks of lm-eval"

    checkpoints: tuple[Path, ...] = setting(
        (), "Other checkpoints to compare with the parent.", argument=True
    )
    parent: Path | None = setting(
        None,
        "What they are compared with.",
        unit="checkpoint",
        shown="the run's",
        panel=job.PANEL,
        name="job.parent",
    )
    data: Data = group(
        Data(),
        only=("validation", "length", "loss_on", "seed"),
        flags={"validation": "data", "seed": "data-seed"},
    )
    tasks: str = setting("", "Tasks of lm-eval in place of the text: a,b,c.", common=True)
    include: Path | None = setting(
        None, "Folder of lm-eval task files (YAML) to know too.", unit="folder"
    )
    limit: int | None = setting(None, "Most examples of each task.", shown="all")
    run: Path = job.run_directory()
    device: str = job.device()
    as_json: bool = job.as_json()

    def __post_init__(self) -> None:
        settle(self)
        if self.tasks and self.data.validation:
            raise UserError(
                "lm-eval's tasks bring their own texts.",
                got=f"eval.tasks and data.validation {self.data.validation}",
                allowed="one of them",
                next="Run eval twice.",
            )
        if not self.tasks and (self.include is not None or self.limit is not None):
            raise UserError(
                "eval.include and eval.limit are about tasks, and none was named.",
                got=self.include or self.limit,
                allowed="them together with eval.tasks",
                next="Add eval.tasks NAME.",
            )
