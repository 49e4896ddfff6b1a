"""What is measured of teacher, pruned model and student. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from minipuzzle.errors import UserError
from minipuzzle.settings import job
from minipuzzle.settings.bounds import settle
from minipuzzle.settings.counts import MOST, token_count
from minipuzzle.settings.data import EMBEDDED, Data
from minipuzzle.settings.declare import group, setting

SHORTEST = 256
"""Tokens of the shortest of the long texts."""


@dataclass(frozen=True, kw_only=True)
class EvalCommand:
    """Measure teacher, pruned model and student side by side, on a text, on the shipped questions
    or on lm-eval's tasks.
    """

    SECTION: ClassVar[str] = "eval"
    PANEL: ClassVar[str] = "Questions and tasks"

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
    tasks: str = setting(
        "",
        "In place of the text: embedded (the shipped questions: language, knowledge, code, long"
        " context, chat), or tasks of lm-eval (a,b,c).",
        common=True,
    )
    include: Path | None = setting(
        None, "Folder of lm-eval task files (YAML) to know too.", unit="folder"
    )
    limit: int | None = setting(
        None, "Most examples of each task, or shipped questions of each kind.", shown="all"
    )
    longest: int = token_count(
        2048,
        "Tokens of the longest shipped question, as far as the models' contexts go.",
        within=(SHORTEST, MOST),
    )
    run: Path = job.run_directory()
    device: str = job.device()
    as_json: bool = job.as_json()

    def __post_init__(self) -> None:
        settle(self)
        if self.tasks and self.data.validation:
            raise UserError(
                "Tasks bring their own texts.",
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
        if self.embedded and (self.include is not None or (self.limit or 1) < 1):
            raise UserError(
                "The shipped questions take a limit of at least 1, without other files.",
                got=f"eval.include {self.include}, eval.limit {self.limit}",
                allowed="eval.limit 1 or more, no eval.include",
                next="Change that setting.",
            )

    @property
    def embedded(self) -> bool:
        """Whether ``tasks`` are the shipped questions."""
        return self.tasks.strip() == EMBEDDED
