"""What a comparison of models' speeds gives, and what is predicted where nothing runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from minipuzzle.generation.bench import Speed
from minipuzzle.memory import Peak
from minipuzzle.settings import Generation


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """A model at a workload: its speed, and the memory that was ``predicted``. ``active`` are the
    parameters that one token is computed with, None where these are all.
    """

    name: str
    path: str
    parameters: int
    active: int | None = None
    work: Generation
    speed: Speed
    predicted: Peak

    @property
    def prefill_tokens_per_s(self) -> float:
        """Tokens read a second, of all rows together."""
        return self.work.batch * self.work.prompt / self.speed.first_token_s

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens written a second after the first of each row; None where there is no other."""
        steps, seconds = self.work.output - 1, self.speed.decode_s
        return self.work.batch * steps / seconds if seconds else None

    @property
    def step_ms(self) -> float | None:
        """Milliseconds of a decoding step."""
        seconds = self.speed.decode_s
        return 1e3 * seconds / (self.work.output - 1) if seconds else None

    @property
    def tokens_per_s(self) -> float:
        """Tokens written a second, the time of reading included."""
        whole = self.speed.first_token_s + self.speed.decode_s
        return self.work.batch * self.work.output / whole

    def json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "name": self.name,
            "path": self.path,
            "parameters": self.parameters,
            **({} if self.active is None else {"active": self.active}),
            "batch": self.work.batch,
            **asdict(self.speed),
            "prefill_tokens_per_s": self.prefill_tokens_per_s,
            "decode_tokens_per_s": self.decode_tokens_per_s,
            "step_ms": self.step_ms,
            "tokens_per_s": self.tokens_per_s,
            "predicted": self.predicted.terms,
            "predicted_bytes": self.predicted.total,
        }


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Models in turn on a ``device``. ``weights`` is their dtype in memory, ``dtype`` that of the
    products; ``batch`` is a number, or words where each model has the largest that fits.
    """

    device: str
    dtype: str
    kernels: str
    weights: str
    state_dtype: str
    torch: str
    batch: int | str
    prompt: int
    output: int
    rows: tuple[BenchRow, ...]

    def json(self) -> dict[str, Any]:
        """For scripts."""
        return {**vars(self), "rows": [row.json() for row in self.rows]}


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """A model with ``weights`` in a dtype: the predicted memory of one row, and the largest batch
    on each card.
    """

    name: str
    weights: str
    peak: Peak
    batches: dict[str, int]

    def json(self) -> dict[str, Any]:
        """For scripts."""
        return {**vars(self), "peak": self.peak.terms}
