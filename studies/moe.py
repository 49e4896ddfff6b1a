"""What a mixture of experts loses when it is cut to a share of its parameters, by what is cut.

    python studies/moe.py data --shared ../shared/data         # here: texts into .carry/moe
    minipuzzle pretrain studies/moe_teacher.yaml --run RUN/teacher
    python studies/moe.py prepare RUN --workers 8              # scores, searches of one step
    python studies/moe.py run RUN --workers 8                  # every row, budget, rate and seed
    python studies/moe.py table RUN                            # docs/results/moe.md's numbers

Rows: experts removed by REAP, by frequency and at random; channels of each expert; fewer chosen
experts; our search over all axes at once, in one step, and in three with recovery between. Each is
measured before and after the same distillation (``cuts.py``). Texts: prose and code, by file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from cuts import Row, Select, Study, narrowest, whole
from cuts_main import main

from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings, SearchSettings

STEPS = 3
BUDGETS = ("75%", "50%", "active=75%")
SCORED = ("reap", "frequency")
TRIED: dict[str, Iterable[int]] = {
    "experts": range(8, 33, 4),
    "expert_width": range(128, 513, 32),
    "shared_width": (256, 384, 512),
    "top_k": (2, 3, 4),
}
"""Sizes that a search tries of each axis of experts: some hundred options a block."""


def by_experts(score: str) -> Select:
    """The best experts by a score, equally many in each block; "random" draws them."""

    def select(teacher: Checkpoint, root: Path, budget: str, seed: int) -> Selection:
        name = SCORED[0] if score == "random" else score
        scores = Scores.load(root / name / "scores.safetensors")
        if score == "random":
            draw = np.random.default_rng(seed)
            drawn = {i: draw.random(len(v)) for i, v in scores.widths["experts"].items()}
            scores = replace(scores, widths={**scores.widths, "experts": drawn})
        return narrowest(teacher, scores, fewer(teacher, "experts", 1), budget)

    return select


def by_axis(axis: str, step: int) -> Select:
    """The best indices of one axis, equally many in each block."""

    def select(teacher: Checkpoint, root: Path, budget: str, seed: int) -> Selection:
        scores = Scores.load(root / SCORED[0] / "scores.safetensors")
        return narrowest(teacher, scores, fewer(teacher, axis, step), budget)

    return select


def fewer(teacher: Checkpoint, axis: str, step: int) -> list[dict[str, int]]:
    """All sizes of an axis, the whole first."""
    return [{axis: count} for count in range(whole(teacher.architecture, axis), 0, -step)]


def settings(parent: Architecture, budget: str, own: bool) -> SearchSettings:
    """A search over all axes of experts; ``own``: each block its own sizes."""
    sizes = {axis: whole(parent, axis) for axis in TRIED}
    vary = [
        f"{axis}={','.join(str(n) for n in tried if n <= sizes[axis])}"
        for axis, tried in TRIED.items()
    ]
    return SearchSettings(
        budget=(budget,),
        method="solver",
        min_keep=("others=75%",),
        vary=tuple(vary),
        uniform=not own,
        candidates=24,
        validation_blocks=32,
        refine=48,
        top=1,
    )


STUDY = Study(
    script=Path(__file__),
    rows=(  # the longest first: while it runs the others do
        Row(name="three steps", budgets=BUDGETS[1:2], steps=STEPS),
        Row(name="reap", budgets=BUDGETS[:2], select=by_experts("reap")),
        Row(name="frequency", budgets=BUDGETS[:2], select=by_experts("frequency")),
        Row(name="random", budgets=BUDGETS[:2], select=by_experts("random")),
        Row(name="width", budgets=BUDGETS, select=by_axis("expert_width", 16)),
        Row(name="chosen", budgets=BUDGETS[2:], select=by_axis("top_k", 1)),
        Row(name="search", budgets=BUDGETS),
        Row(name="search a block", budgets=BUDGETS[:2], per_block=True),
    ),
    budgets=BUDGETS,
    # as many blocks of text as there are; only the first scores are searched with
    scores={
        SCORED[0]: ScoreSettings(samples=512, block_samples=32, batch=16, experts=SCORED[0]),
        SCORED[1]: ScoreSettings(
            samples=512, block_samples=1, batch=16, experts=SCORED[1], curves=False
        ),
    },
    search=settings,
    told="experts",
    rates=(5e-4, 1.5e-3),
)

if __name__ == "__main__":
    main(STUDY, __doc__)
