"""What a search found, as search.json keeps it."""

from __future__ import annotations

from collections.abc import Sequence

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.nas.plan import Plan
from minipuzzle.nas.rank import Evaluated, shortlist
from minipuzzle.records import (
    CandidateRow,
    DomainRow,
    Front,
    ParentModel,
    SearchResult,
    SolverFacts,
    Step,
)
from minipuzzle.records.search_result import DROPPED
from minipuzzle.settings import SearchSettings
from minipuzzle.settings.bits import AXIS, name_of, tenths
from minipuzzle.space import tried


def search_result(
    parent: Checkpoint,
    plan: Plan,
    settings: SearchSettings,
    ranked: list[Evaluated],
    steps: list[Step],
    solved: tuple[SolverFacts, Front] | None,
) -> SearchResult:
    """Parent, budget, funnel, candidates best first, and the selections of the top ones."""
    kept = shortlist(
        ranked, settings.finalists, "kl" if settings.method == "solver" else "agreement"
    )
    solver, front = solved or (None, None)
    return SearchResult(
        method=settings.method,
        parent=ParentModel(
            path=str(parent.path),
            fingerprint=parent.fingerprint,
            parameters=parent.parameters,
            active=parent.architecture.active_if_fewer,
            pattern=parent.architecture.pattern,
        ),
        **vars(plan.summary()),
        solver=solver,
        front=front,
        funnel=tuple(steps),
        candidates=tuple(_row(parent.architecture, r, settings) for r in ranked),
        top=tuple(r.candidate.name for r in kept),
        selections={r.candidate.name: r.candidate.selection for r in kept},
    )


def _row(parent: Architecture, evaluated: Evaluated, settings: SearchSettings) -> CandidateRow:
    candidate, quality = evaluated.candidate, evaluated.quality
    kept, student = set(candidate.blocks), candidate.student
    shape = _shape(parent, student, settings)
    if candidate.bits:
        shape |= {AXIS: _range([n for bits in candidate.bits for n in tenths(bits)])}
    return CandidateRow(
        name=candidate.name,
        origin=candidate.origin,
        shape=shape,
        pattern=student.pattern,
        strip="".join(letter if i in kept else DROPPED for i, letter in enumerate(parent.pattern)),
        parameters=candidate.parameters,
        active=student.active_parameters if parent.active_if_fewer is not None else None,
        bytes=candidate.bytes,
        damage=candidate.damage,
        **dict(zip(quality._fields[:4], quality[:4], strict=True)),
        domains={
            name: DomainRow(**dict(zip(part._fields[:4], part[:4], strict=True)))
            for name, part in quality.domains.items()
        },
        formats=tuple(map(name_of, candidate.bits)) or None,
        rank=evaluated.rank,
        tasks=evaluated.tasks,
        kinds=None if evaluated.kinds is None else dict(evaluated.kinds),
    )


def _shape(
    parent: Architecture, student: Architecture, settings: SearchSettings
) -> dict[str, int | str]:
    """Counts of the parent's kinds, and the size of each axis: a number where all blocks have it, a
    range where they differ.
    """
    shape: dict[str, int | str] = {"hidden": student.hidden}
    for kind in parent.kinds:
        blocks = [block for block in student.blocks if block.kind == kind]
        shape[kind] = len(blocks)
        indices = parent.indices(kind)
        for axis in {w.axis: None for i in indices for w in tried(parent.blocks[i], settings)}:
            shape[axis] = _range([block.sizes[axis] for block in blocks] or [0])
    return shape


def _range(sizes: Sequence[int]) -> int | str:
    return sizes[0] if len(set(sizes)) == 1 else f"{min(sizes)}-{max(sizes)}"
