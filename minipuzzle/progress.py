"""How far a piece of work is: rooms tell a ``Progress``, and do not know who watches.

``bars`` shows it in a terminal.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of one piece of work, in the unit that the function says which takes it."""

    def advance(self, amount: float = 1) -> None:
        """Add finished work."""

    def update(self, completed: float, **numbers: float) -> None:
        """Set the finished work; the numbers are shown beside it: loss=2.5."""


class Silent:
    """Nobody watches."""

    def advance(self, amount: float = 1) -> None:
        """Nothing."""

    def update(self, completed: float, **numbers: float) -> None:
        """Nothing."""


SILENT: Progress = Silent()


class Counting:
    """Passes all on to another one, and keeps in ``done`` how much was added."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.done = progress, 0.0

    def advance(self, amount: float = 1) -> None:
        """Add finished work."""
        self.done += amount
        self.progress.advance(amount)

    def update(self, completed: float, **numbers: float) -> None:
        """Set the finished work."""
        self.done = completed
        self.progress.update(completed, **numbers)
