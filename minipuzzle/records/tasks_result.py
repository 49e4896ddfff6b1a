"""tasks.json: lm-eval's tasks on models side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipuzzle.checked import Count
from minipuzzle.records.base import Record


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """A metric of a task on a checkpoint; ``samples`` are the examples it was measured on."""

    name: str
    path: str
    task: str
    metric: str
    value: float
    stderr: float | None
    higher_is_better: bool | None
    samples: Count | None


@dataclass(frozen=True, kw_only=True)
class TasksResult(Record):
    """tasks.json. ``limit`` examples of each task (None: all); ``include`` is a folder of task
    files.
    """

    schema: ClassVar[int] = 1
    again: ClassVar[str] = "Run minipuzzle eval with eval.tasks again."
    device: str
    limit: int | None
    include: str | None
    rows: tuple[TaskRow, ...]
