"""What people see of progress, on standard error: in a terminal a bar with rate and time left,
elsewhere a line at the beginning and one a minute.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Columns
from rich.text import Text

console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
"""Quiet in all processes of a torchrun but the first."""
LINE_SECONDS = 60.0
"""From one line to the next where there is no terminal."""


class Shown:
    """A ``Progress`` that somebody sees."""

    def __init__(self) -> None:
        self.done = 0.0

    def advance(self, amount: float = 1) -> None:
        """Add finished work."""
        self.show(self.done + amount)

    def update(self, completed: float, **numbers: float) -> None:
        """Set the finished work, and the numbers beside it."""
        words = [f"{name} {value:.4f}" for name, value in numbers.items()]
        self.show(completed, "  ".join(words))

    def show(self, completed: float, note: str | None = None) -> None:
        """Set the finished work, and the words beside it (None: as they are)."""
        self.done = completed


class Bar(Shown):
    """A bar of a terminal."""

    def __init__(self, columns: Columns, label: str, total: float) -> None:
        super().__init__()
        self._columns = columns
        self._task = columns.add_task(label, total=total, note="")

    def show(self, completed: float, note: str | None = None) -> None:
        """As ``Shown.show``."""
        super().show(completed, note)
        fields = {} if note is None else {"note": note}
        self._columns.update(self._task, completed=completed, **fields)  # type: ignore[arg-type]


class Lines(Shown):
    """Lines, where there is no terminal: "distill: long run: 40 %, 1,234 tokens/s, 0:03:20 left,
    loss 2.5000".
    """

    def __init__(self, label: str, total: float, unit: str) -> None:
        super().__init__()
        self._label, self._total, self._unit, self._note = label, total, unit, ""
        self._began = self._told = time.monotonic()
        _print(f"{label} ...")

    def show(self, completed: float, note: str | None = None) -> None:
        """As ``Shown.show``."""
        super().show(completed, note)
        self._note = self._note if note is None else note
        now = time.monotonic()
        if now - self._told < LINE_SECONDS:
            return
        self._told, speed = now, completed / (now - self._began)
        words = [f"{100 * completed / self._total:.0f} %", f"{_rate(speed)} {self._unit}/s"]
        if speed:
            left = max(0.0, (self._total - completed) / speed)
            words.append(f"{timedelta(seconds=round(left))} left")
        _print(f"{self._label}: {', '.join(filter(None, (*words, self._note)))}")


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{_rate(speed)} {self.unit}/s" if speed else "")


def _rate(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2f}"


def _print(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False, emoji=False)


@contextmanager
def progress_bar(label: str, total: float, unit: str) -> Iterator[Shown]:
    """A bar that goes away when done; without a terminal lines that stay."""
    if not console.is_terminal:
        yield Lines(label, total, unit)
        return
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
    with Columns(*columns, console=console, transient=True) as shown:
        yield Bar(shown, label, total)
