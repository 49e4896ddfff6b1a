"""Progress bars on standard error: rate, time left and a note. Rooms only call back; this is where
people look.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
"""Quiet in all processes of a torchrun but the first."""


class Bar:
    """One bar. ``advance`` adds work done, ``update`` sets it; ``note`` shows a few words beside
    it.
    """

    def __init__(self, progress: Progress, total: float, label: str) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="")

    def advance(self, amount: float = 1) -> None:
        """Add finished work."""
        self._progress.advance(self._task, amount)

    def update(self, completed: float, note: str = "") -> None:
        """Set the finished work and the note."""
        self._progress.update(self._task, completed=completed, note=note)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(
            ""
            if not speed
            else f"{speed:,.0f} {self.unit}/s"
            if speed >= 10
            else f"{speed:.2f} {self.unit}/s"
        )


@contextmanager
def progress_bar(label: str, total: float, unit: str) -> Iterator[Bar]:
    """A bar that goes away when done; without a terminal only the label is printed, once."""
    columns = [
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _Rate(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    if not console.is_terminal:
        console.print(f"{label} ...", highlight=False)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        yield Bar(progress, total, label)
