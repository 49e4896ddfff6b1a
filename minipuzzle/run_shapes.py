"""What the JSON files of a run directory hold, as shapes for ``checked``. No torch.

Names in them become paths (candidates/NAME), so they are checked to be plain; numbers are finite.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, NotRequired, TypedDict

from minipuzzle.checked import Count, Must, Name, Positive


def _ascends(indices: list[int]) -> bool:
    return all(a < b for a, b in zip([-1, *indices], indices, strict=False))


Indices = Annotated[list[int], Must(_ascends, "ascending indices from 0")]
Pattern = Annotated[
    str, Must(lambda text: text != "" and set(text) <= set("M-*"), "the letters M, - and *")
]
Time = Annotated[
    str,
    Must(
        re.compile(r"(prefill|decode|total) ms @b\d{1,18},p\d{1,18},o\d{1,18}").fullmatch,
        "a phase and a workload, as decode ms @b1,p8192,o1024",
    ),
]
Strip = Annotated[
    str, Must(lambda text: text != "" and set(text) <= set("M-*."), "the letters M, -, * and .")
]


class _Parent(TypedDict):
    path: str
    fingerprint: str


class Command(TypedDict):
    """A row of commands.json."""

    command: str
    seconds: float
    date: str


class CommandsFile(TypedDict):
    commands: list[Command]


class _ParentModel(_Parent):
    parameters: Positive
    pattern: Pattern


class _Workload(TypedDict):
    context: Positive
    batch: Positive
    weights: str
    kv: str
    state: str


class _Budget(TypedDict):
    text: list[str]
    parameters: Positive | None
    bytes: Positive | None
    workload: _Workload
    times: dict[Time, float]
    timing: str | None


class _Bounds(TypedDict):
    hidden: Annotated[list[int], Must(len, "at least one hidden size")]


class _Step(TypedDict):
    stage: str
    entered: Count
    left: Count
    seconds: float


class _Candidate(TypedDict):
    name: Name
    shape: dict[str, Any]
    pattern: Pattern
    strip: Strip
    parameters: Positive
    bytes: Positive
    damage: float
    next_token_accuracy: float
    agreement: float
    loss: float
    kl: float
    rank: Positive


class _Selection(TypedDict):
    blocks: list[dict[str, Indices] | None]
    hidden: Indices | None


class _Point(TypedDict):
    cost: list[float]
    damage: float


class _Front(TypedDict):
    names: list[str]
    points: list[_Point]


class SearchFile(TypedDict):
    """search.json: budget, funnel, candidates best first, and what the top ones keep."""

    method: str
    parent: _ParentModel
    budget: _Budget
    bounds: _Bounds
    points: Count
    feasible: Count
    funnel: Annotated[list[_Step], Must(len, "at least one step")]
    candidates: Annotated[list[_Candidate], Must(len, "at least one candidate")]
    top: Annotated[list[Name], Must(len, "at least one candidate")]
    selections: dict[Name, _Selection]
    front: NotRequired[_Front]


MEASURED = tuple[float, float, float, float]
"""What search measures of a candidate: accuracy, agreement, loss, KL."""


class PartialSearch(TypedDict):
    """search.partial/KEY.json: what a search that was stopped had measured, by candidate."""

    key: str
    results: dict[str, MEASURED]


class PartialPrune(TypedDict):
    """prune.partial.json: the candidates that a prune that was stopped had cut, and how far their
    logits are off.
    """

    key: str
    errors: dict[Name, float]


class TrainingFile(TypedDict):
    """identity.json of a folder of training states: whose they are. ``replaced``: an older result
    was set aside.
    """

    identity: str
    key: str
    finished: bool
    replaced: bool


class LegFile(TypedDict):
    """result.json of a leg: its validation loss in nats a token, null where training broke down."""

    validation_loss: float | None
    tasks: NotRequired[float]
