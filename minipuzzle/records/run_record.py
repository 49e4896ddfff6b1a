"""run.json: which checkpoint a run directory is about, and what its finished stages recorded."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from minipuzzle.checked import Count, Must, Name, Positive, table
from minipuzzle.errors import UserError
from minipuzzle.records.base import Record
from minipuzzle.records.training_record import ExpertLoadRecord

Measured = Annotated[float, Must(lambda value: type(value) in (int, float), "a number", alone=True)]
"""A loss may be no number where a training broke down, and its run is to be read all the same."""


@dataclass(frozen=True, kw_only=True)
class ParentPath:
    """A checkpoint: its folder, and the fingerprint of its config and weights."""

    path: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Original(ParentPath):
    """The checkpoint that the parent was made from in earlier steps: the teacher. Here and below,
    ``active`` are the parameters that one token is computed with, None where these are all.
    """

    parameters: Positive
    active: Positive | None = None
    pattern: str


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A finished step of cut and recovery. ``key`` is the hash of all that it and the steps before
    it read, ``folder`` its run directory in this one, ``distill`` the key of its distillation.
    ``budget`` is what was asked of it, of the original, ``pattern`` that of its parent with "." for
    dropped blocks. Losses and KL to the original in nats a token: of the original, of what was cut,
    of the student.
    """

    number: Positive
    key: str
    folder: str
    distill: str
    budget: str
    pattern: str
    parameters: Positive
    active: Positive | None = None
    tokens: Count
    loss: tuple[Measured, Measured, Measured]
    kl: tuple[Measured, Measured, Measured]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A finished stage: the hash of its inputs, and when it finished (ISO 8601)."""

    name: ClassVar[str]
    key: str
    finished: str = ""

    def json(self) -> dict[str, Any]:
        """What run.json holds of it."""
        return table(self)


@dataclass(frozen=True, kw_only=True)
class Scored(Stage):
    """``file``: where the scores are, in the run directory."""

    name: ClassVar[str] = "score"
    file: str = "scores.safetensors"


@dataclass(frozen=True, kw_only=True)
class Searched(Stage):
    """``file``: where the result is, in the run directory."""

    name: ClassVar[str] = "search"
    file: str = "search.json"


@dataclass(frozen=True, kw_only=True)
class Pruned(Stage):
    """``logit_error``: of each candidate, how far the file's logits are from the masked parent's,
    relative to the largest.
    """

    name: ClassVar[str] = "prune"
    logit_error: dict[Name, Measured] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Distilled(Stage):
    """``search``: the key of the search it went by. Losses are validation losses in nats a token,
    by candidate (short runs, screening runs) or learning rate; ``short_tasks`` are averages of
    tasks. ``validation_domains``: the loss after the long run of each source of text, where there
    are several. ``curve``: (tokens, loss on a sample) along the long run. ``expert_load``, here and
    below: in the last logged steps, by number of the block.
    """

    name: ClassVar[str] = "distill"
    search: str
    winner: Name
    short_validation_loss: dict[Name, Measured]
    screening_validation_loss: dict[Name, Measured] = field(default_factory=dict)
    final_kl: Measured
    long_validation_loss: tuple[Measured, Measured] | None = None
    validation_domains: dict[str, Measured] = field(default_factory=dict)
    curve: list[tuple[Count, Measured]] = field(default_factory=list)
    tokens: Count
    learning_rate: float = 0.0
    rate_validation_loss: dict[str, Measured] = field(default_factory=dict)
    short_tasks: dict[Name, Measured] = field(default_factory=dict)
    short_tokens: Count
    expert_load: dict[str, ExpertLoadRecord] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Quantised(Stage):
    """A distillation in ``format``, of ``bytes`` in the file. Validation losses in nats a token: of
    the student it began with, of that one quantised afterwards, of what was trained. ``curve`` and
    ``rate_validation_loss`` as in ``Distilled``.
    """

    name: ClassVar[str] = "qad"
    format: Name
    bytes: Positive
    whole_validation_loss: Measured
    after_validation_loss: Measured
    validation_loss: Measured
    final_kl: Measured
    curve: list[tuple[Count, Measured]] = field(default_factory=list)
    tokens: Count
    learning_rate: float
    rate_validation_loss: dict[str, Measured] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Adapted(Stage):
    """``trained``: parameters of the adapter; ``lora``: those of a LoRA of the same rank."""

    name: ClassVar[str] = "adapt"
    final_loss: Measured
    tokens: Count
    trained: Count
    lora: Count
    expert_load: dict[str, ExpertLoadRecord] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pretrained(Stage):
    """``validation``: by text, nats a token and bits a byte."""

    name: ClassVar[str] = "pretrain"
    validation: dict[str, Measured] = field(default_factory=dict)
    expert_load: dict[str, ExpertLoadRecord] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The finished stages by their names; None where one has not run."""

    score: Scored | None = None
    search: Searched | None = None
    prune: Pruned | None = None
    distill: Distilled | None = None
    qad: Quantised | None = None
    adapt: Adapted | None = None
    pretrain: Pretrained | None = None

    def __getitem__(self, name: str) -> Stage | None:
        found: Stage | None = getattr(self, name)
        return found

    @property
    def names(self) -> list[str]:
        """Those that have run."""
        return [f.name for f in fields(self) if self[f.name] is not None]

    def having(self, done: Stage) -> Stages:
        """The same with a stage that has finished."""
        changes: dict[str, Any] = {done.name: done}
        return replace(self, **changes)

    def lacking(self, name: str) -> Stages:
        """The same without a stage."""
        changes: dict[str, Any] = {name: None}
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """run.json. Schema 2 compared runs by what Python shows of objects, so that a new field made a
    run another one's. ``original`` is None where it is the parent, ``steps`` where there is one
    step.
    """

    schema: ClassVar[int] = 3
    again: ClassVar[str] = "Restore it, or name another run directory with job.run."
    parent: ParentPath | None
    stages: Stages
    original: Original | None = None
    steps: tuple[StepRow, ...] | None = None

    @classmethod
    def read(cls, found: Any, path: Path) -> Self:
        """As ``Record.read``; what an older minipuzzle wrote is refused with what to do about
        it.
        """
        if isinstance(found, dict) and found.get("schema", 1) in range(1, cls.schema):
            raise UserError(
                f"An older minipuzzle wrote {path}: it compared inputs in another way.",
                got=f"schema {found.get('schema', 1)}",
                allowed=f"schema {cls.schema}",
                next=(
                    "Start a new run directory with job.run, or end this run with the minipuzzle"
                    " that began it. Its checkpoints can be used as they are."
                ),
            )
        return super().read(found, path)
