"""questions.json: the shipped questions, answered by models side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from minipuzzle.checked import Must, Positive
from minipuzzle.records.base import Record

Limits = tuple[float, float, float]
"""A value, and the limits of its interval of 95 %."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """``above``: the share of right answers with chance taken off, 0 for a guess and 1 for all
    right. ``change``: that less the first model's, on the same questions; None for the first.
    """

    count: Positive
    right: float
    above: Limits
    change: Limits | None = None


@dataclass(frozen=True, kw_only=True)
class QuestionsRow:
    """A model: the mean over the kinds, each kind, and the tasks of each."""

    name: str
    path: str
    mean: Answered
    kinds: dict[str, Answered]
    tasks: dict[str, dict[str, Answered]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class QuestionsResult(Record):
    """questions.json: at most ``limit`` questions of a kind (None: all), long texts of ``longest``
    tokens at most.
    """

    schema: ClassVar[int] = 1
    again: ClassVar[str] = "Run minipuzzle eval with eval.tasks embedded again."
    device: str
    limit: int | None
    longest: Positive
    rows: Annotated[tuple[QuestionsRow, ...], Must(len, "at least one row")]

    def contradiction(self) -> str:
        """Every row is about the same kinds."""
        same = len({frozenset(row.kinds) for row in self.rows}) == 1
        return "" if same else "rows of different kinds"
