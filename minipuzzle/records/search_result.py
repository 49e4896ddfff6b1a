"""search.json: what fits a budget, the candidates that were evaluated, and what the top ones keep.

``SearchSpace`` is what is known before there are scores: the budget, the space and what fits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, cast

from minipuzzle.arch import Selection
from minipuzzle.checked import Count, Must, Name, Positive, table
from minipuzzle.errors import UserError
from minipuzzle.kinds import KINDS
from minipuzzle.memory import Workload
from minipuzzle.records.base import Record
from minipuzzle.records.run_record import ParentPath
from minipuzzle.settings import Generation, Phase, parse_work

DROPPED = "."


def _is_pattern(text: str, also: str = "") -> bool:
    return text != "" and set(text) <= {*(block.letter for block in KINDS.values()), *also}


def _ascends(kept: dict[str, Any]) -> bool:
    chosen = [of for block in kept["blocks"] if block for of in block.values()]
    return all(
        all(a < b for a, b in zip([-1, *indices], indices, strict=False))
        for indices in (*chosen, kept.get("hidden") or [])
    )


Pattern = Annotated[str, Must(_is_pattern, "a letter of a kind for each block")]
KeptPattern = Annotated[
    str, Must(lambda text: _is_pattern(text, DROPPED), "a letter of a kind or a dot for each block")
]
Time = Annotated[
    str,
    Must(
        re.compile(r"(prefill|decode|total) ms @b\d{1,18},p\d{1,18},o\d{1,18}").fullmatch,
        "a phase and a workload, as decode ms @b1,p8192,o1024",
    ),
]
Kept = Annotated[Selection, Must(_ascends, "ascending indices from 0")]


@dataclass(frozen=True, kw_only=True)
class ParentModel(ParentPath):
    """The checkpoint that was searched: ``pattern`` has a letter for each block. Here and below,
    ``active`` are the parameters that one token is computed with, None where these are all.
    """

    parameters: Positive
    active: Positive | None = None
    pattern: Pattern


@dataclass(frozen=True, kw_only=True)
class SearchBudget:
    """The budget, as it was written (``text``) and in numbers; None where it does not bound.

    ``bytes`` at the ``workload``; ``times`` in milliseconds by phase and workload, which
    ``timing`` is the source of; ``margin`` is the share of them that was kept free.
    """

    text: tuple[str, ...]
    parameters: Positive | None
    active: Positive | None = None
    bytes: Positive | None
    workload: Workload
    times: dict[Time, float]
    timing: str | None
    margin: float | None

    @property
    def asked(self) -> list[tuple[Generation, Phase]]:
        """What ``times`` bound: workloads and phases."""
        named = [name.split(" ms @") for name in self.times]
        return [(parse_work(work), cast(Phase, phase)) for phase, work in named]


@dataclass(frozen=True, kw_only=True)
class ParentCost:
    """What the parent takes of that which a budget can bound."""

    parameters: Positive
    active: Positive | None = None
    bytes: Positive
    times: dict[Time, float]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A budget and what fits it. ``bounds``: the counts (least, most) and sizes that are tried, by
    the names of kinds and axes, and "hidden"; ``points`` of the grid, of which ``feasible`` fit;
    ``not_pruned``: sentences on what a file of this family cannot leave out.
    """

    budget: SearchBudget
    not_pruned: tuple[str, ...]
    bounds: Annotated[
        dict[str, tuple[int, ...] | bool],
        Must(lambda found: bool(found.get("hidden")), "at least one hidden size"),
    ]
    points: Count
    feasible: Count
    parent_cost: ParentCost

    def json(self) -> dict[str, Any]:
        """As search.json has it."""
        return table(self)

    def sizes(self, name: str) -> tuple[int, ...]:
        """The counts or sizes of a kind or axis that are tried; none where it is not varied."""
        found = self.bounds.get(name)
        return found if isinstance(found, tuple) else ()

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """The hidden sizes that are tried, ascending."""
        return self.sizes("hidden")


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """A shape that fits: counts and sizes by name, and its costs; ``ms`` by phase and workload."""

    shape: dict[str, int]
    parameters: int
    active: int | None = None
    bytes: int
    ms: dict[str, float]

    def json(self) -> dict[str, Any]:
        """One table, the shape's names among the costs'."""
        return {**self.shape, **{k: v for k, v in table(self).items() if k != "shape"}}


@dataclass(frozen=True, kw_only=True)
class SolverFacts:
    """How many candidates the solver proposed, in how many seconds, and how far from the optimum
    it may be at most (relative).
    """

    proposals: Count
    seconds: float
    gap: float


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """The least predicted ``damage`` at a ``limit``, and the ``cost`` of the model that has it."""

    limit: tuple[float, ...]
    cost: tuple[float, ...]
    damage: float
    gap: float


@dataclass(frozen=True, kw_only=True)
class Front:
    """The predicted Pareto front; ``names`` say what ``limit`` and ``cost`` are of."""

    names: tuple[str, ...]
    points: tuple[FrontPoint, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage of the funnel: how many entered, how many left, in how many seconds."""

    stage: str
    entered: Count
    left: Count
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DomainRow:
    """What a candidate does on a domain of the validation text."""

    next_token_accuracy: float
    agreement: float
    loss: float
    kl: float


@dataclass(frozen=True, kw_only=True)
class CandidateRow:
    """A candidate that was evaluated under masks, before training.

    ``shape``: how many blocks of each kind, and the size of each axis ("6-8" where blocks differ).
    ``strip`` is the parent's pattern with a dot for each dropped block. ``bytes`` at the workload,
    ``damage`` as predicted by the scores; ``loss`` and ``kl`` in nats a token, the others shares.
    ``formats``: those of each kept block, where they were chosen. ``tasks``: the mean over
    ``kinds`` of shipped questions, where they were asked. ``domains``: each of the text's, where it
    has several.
    """

    name: Name
    origin: str
    shape: dict[str, int | str]
    pattern: Pattern
    strip: KeptPattern
    parameters: Positive
    active: Positive | None = None
    bytes: Positive
    damage: float
    next_token_accuracy: float
    agreement: float
    loss: float
    kl: float
    rank: Positive
    formats: tuple[str, ...] | None = None
    tasks: float | None = None
    kinds: dict[str, float] | None = None
    domains: dict[str, DomainRow] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SearchResult(Record, SearchSpace):
    """search.json: ``candidates`` best first, the names of the ``top`` ones and their
    ``selections``. ``solver`` and ``front`` where the method is "solver".
    """

    schema: ClassVar[int] = 2
    again: ClassVar[str] = "Run minipuzzle search again; delete the file first if it is kept."
    method: str
    parent: ParentModel
    solver: SolverFacts | None = None
    front: Front | None = None
    funnel: Annotated[tuple[Step, ...], Must(len, "at least one step")]
    candidates: Annotated[tuple[CandidateRow, ...], Must(len, "at least one candidate")]
    top: Annotated[tuple[Name, ...], Must(len, "at least one candidate")]
    selections: dict[Name, Kept]

    def contradiction(self) -> str:
        """Names, selections and patterns are of one parent."""
        blocks = len(self.parent.pattern)
        known = {row.name for row in self.candidates} & set(self.selections)
        for name in self.top:
            if name not in known:
                return f"{name!r} in top is no candidate"
        for name, kept in self.selections.items():
            if len(kept.blocks) != blocks:
                return f"{name!r} selects {len(kept.blocks)} of {blocks} blocks"
        for row in self.candidates:
            if len(row.strip) != blocks:
                return f"{row.name!r} has a pattern of another length"
        return ""

    def json(self) -> dict[str, Any]:
        """As ``Record.json``; a selection that keeps the hidden size says so."""
        stored = super().json()
        for kept in stored["selections"].values():
            kept.setdefault("hidden", None)
        return stored

    def candidate(self, name: str) -> CandidateRow:
        """The row of a candidate. Raises: UserError where it is none of the selections."""
        row = next((row for row in self.candidates if row.name == name), None)
        if row is None or name not in self.selections:
            raise UserError(
                "The search does not know this candidate.",
                got=name,
                allowed=", ".join(self.selections),
                next="Run minipuzzle distill again: search.json is not the one that it went by.",
            )
        return row
