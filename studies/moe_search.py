"""What the cases of studies/moe.py share: scores, and the searches of one step. Each part is a file
when it is done, and the product's own files say how far one is that was killed.
"""

from __future__ import annotations

import time
from pathlib import Path

from moe_texts import job_of, plain_name, texts

import minipuzzle as mp
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.settings import ScoreSettings, SearchSettings

SCORED = ("reap", "frequency")
TRIED = {
    "experts": range(8, 33, 4),
    "expert_width": range(128, 513, 32),
    "shared_width": (256, 384, 512),
    "top_k": (2, 3, 4),
}
"""Sizes that a search tries of each axis of experts: some hundred options a block."""


def waves(searches: list[tuple[str, bool]]) -> list[list[str]]:
    """The names of the parts of (budget, each block its own sizes); those of a wave do not wait for
    each other.
    """
    return [
        ["texts", *(f"score {name}" for name in SCORED)],
        [f"search {budget} {'block' if own else 'uniform'}" for budget, own in searches],
    ]


def done(root: Path, part: str) -> Path:
    """Exists when a part is done: its seconds."""
    return root / "parts" / f"{plain_name(part)}.json"


def run_part(root: Path, part: str) -> None:
    """Do one part, or go on with it."""
    started = time.monotonic()
    teacher = root / "teacher" / "model"
    words = part.split()
    if words[0] == "texts":
        for name in ("train", "val", "choice"):
            texts(name, root)
    elif words[0] == "score":
        mp.score(job_of(root, teacher, words[1]), settings_of(words[1]))
    else:
        # a run directory holds one search: each has its own, with a copy of the scores
        run = run_of(words[1], own=words[2] == "block")
        (root / run).mkdir(exist_ok=True)
        for name in ("scores.safetensors", "run.json"):
            if not (root / run / name).exists():
                (root / run / name).write_bytes((root / SCORED[0] / name).read_bytes())
        searched(root, teacher, words[1], run, own=words[2] == "block")
    write_json(done(root, part), {"seconds": time.monotonic() - started})


def run_of(budget: str, own: bool) -> str:
    """The run directory of a search of one step."""
    name = plain_name(budget)
    return f"search.{name}.block" if own else f"search.{name}"


def settings_of(experts: str) -> ScoreSettings:
    """As many blocks of text as there are; only the first scores are searched with."""
    if experts != SCORED[0]:
        return ScoreSettings(samples=512, block_samples=1, batch=16, experts=experts, curves=False)
    return ScoreSettings(samples=512, block_samples=32, batch=16, experts=experts)


def searched(
    root: Path, checkpoint: Path, budget: str, run: str, *, own: bool = False
) -> Checkpoint:
    """The best student of our search over all axes; ``own``: each block its own sizes."""
    job = job_of(root, checkpoint, run)
    mp.score(job, settings_of(SCORED[0]))
    sizes = next(b.sizes for b in job.parent.architecture.blocks if "experts" in b.sizes)
    vary = [
        f"{axis}={','.join(str(n) for n in tried if n <= sizes[axis])}"
        for axis, tried in TRIED.items()
    ]
    settings = SearchSettings(
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
    mp.search(job, settings)
    return next(iter(mp.prune(job).values()))
