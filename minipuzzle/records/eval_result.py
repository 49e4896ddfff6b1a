"""eval.json: models side by side on one text, and what was predicted beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from minipuzzle.checked import Must, Positive
from minipuzzle.records.base import Record

Above0 = Annotated[float, Must(lambda value: value > 0, "above 0")]


@dataclass(frozen=True, kw_only=True)
class TextNumbers:
    """What a model does on a text. ``loss`` and ``kl`` (to the teacher) in nats a token,
    ``agreement`` with the teacher's greedy token and ``next_token_accuracy`` as shares.
    """

    tokens: Positive
    loss: Above0
    perplexity: float
    bits_per_byte: float
    kl: float
    agreement: float
    next_token_accuracy: float


@dataclass(frozen=True, kw_only=True)
class EvalRow(TextNumbers):
    """A model on the whole text and on each domain of it. ``bytes`` is the file's,
    ``memory_bytes`` what it takes at the search's workload; ``active`` are the parameters that one
    token is computed with, None where these are all.
    """

    name: str
    path: str
    parameters: Positive
    active: Positive | None = None
    bytes: Positive
    memory_bytes: Positive
    domains: dict[str, TextNumbers] = field(default_factory=dict)
    tokens_per_second: Above0


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """A cost of the student in a ``unit`` ("bytes", "ms", "" for a count); ``measured`` is 0 where
    the model has none of it: no attention, no keys and values.
    """

    what: str
    unit: str
    predicted: float
    measured: float


@dataclass(frozen=True, kw_only=True)
class EvalResult(Record):
    """eval.json: ``rows`` of teacher, pruned and student. ``distill`` is the key of the
    distillation that made the student.
    """

    schema: ClassVar[int] = 1
    again: ClassVar[str] = "Run minipuzzle eval again."
    device: str
    data: str
    tokens: Positive
    rows: Annotated[tuple[EvalRow, ...], Must(len, "at least one row")]
    costs: tuple[CostRow, ...]
    distill: str | None

    def contradiction(self) -> str:
        """Every row is about the same domains."""
        same = len({frozenset(row.domains) for row in self.rows}) == 1
        return "" if same else "rows of different domains"
