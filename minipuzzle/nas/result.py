"""What a search found, as the contents of search.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.nas.damage import AXES
from minipuzzle.nas.plan import Plan
from minipuzzle.nas.rank import Realised, shortlist
from minipuzzle.nas.select import Candidate
from minipuzzle.run_files import SEARCH_SCHEMA
from minipuzzle.settings import SearchSettings


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage of the funnel: how many entered, how many left, in how many seconds."""

    stage: str
    entered: int
    left: int
    seconds: float


def search_result(
    parent: Checkpoint,
    plan: Plan,
    settings: SearchSettings,
    ranked: list[Realised],
    steps: list[Step],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Parent, budget, funnel, candidates best first, and the selections of the top ones."""
    kept = shortlist(
        ranked, settings.finalists, "kl" if settings.method == "solver" else "agreement"
    )
    return {
        "schema": SEARCH_SCHEMA,
        "method": settings.method,
        "parent": {
            "path": str(parent.path),
            "fingerprint": parent.fingerprint,
            "parameters": parent.parameters,
            "pattern": parent.architecture.pattern,
        },
        **plan.summary(),
        **facts,
        "funnel": [asdict(step) for step in steps],
        "candidates": [_row(parent.architecture, r) for r in ranked],
        "top": [r.candidate.name for r in kept],
        "selections": {r.candidate.name: _plain(r.candidate) for r in kept},
    }


def _row(parent: Architecture, realised: Realised) -> dict[str, Any]:
    candidate = realised.candidate
    kept = set(candidate.selection.kept_blocks)
    student = candidate.selection.student(parent)
    return {
        "name": candidate.name,
        "origin": candidate.origin,
        "shape": _shape(student),
        "pattern": student.pattern,
        "strip": "".join(symbol if i in kept else "." for i, symbol in enumerate(parent.pattern)),
        "parameters": candidate.parameters,
        "bytes": candidate.bytes,
        "damage": candidate.damage,
        **realised.reality._asdict(),
        "rank": realised.rank,
        **({} if realised.tasks is None else {"tasks": realised.tasks}),
    }


def _shape(student: Architecture) -> dict[str, int | str]:
    """Counts by kind, and each axis's size: a number where all blocks have it, a range where they
    differ.
    """
    shape: dict[str, int | str] = {
        **{kind: student.count(kind) for kind in AXES},
        "hidden": student.hidden,
    }
    for kind, axis in AXES.items():
        sizes = sorted({block.sizes[axis] for block in student.blocks if block.kind == kind})
        shape[axis] = (sizes[0] if len(sizes) == 1 else f"{sizes[0]}-{sizes[-1]}") if sizes else 0
    return shape


def _plain(candidate: Candidate) -> dict[str, Any]:
    blocks = [
        None if b is None else {axis: list(kept) for axis, kept in b.items()}
        for b in candidate.selection.blocks
    ]
    hidden = candidate.selection.hidden
    return {"blocks": blocks, "hidden": None if hidden is None else list(hidden)}
