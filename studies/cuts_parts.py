"""What the cases of a study of cuts share: scores, and the searches of one step. Each part is a
file when it is done, and the product's own files say how far one is that was killed.
"""

from __future__ import annotations

import time
from pathlib import Path

from cuts import Study, plain_name
from cuts_texts import job_of, texts

import minipuzzle as mp
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint


def waves(study: Study) -> list[list[str]]:
    """The names of the parts; those of a wave do not wait for each other."""
    return [
        ["texts", *(f"score {name}" for name in study.scores)],
        [f"search {budget} {'block' if own else 'uniform'}" for budget, own in study.searches()],
    ]


def done(root: Path, part: str) -> Path:
    """Exists when a part is done: its seconds."""
    return root / "parts" / f"{plain_name(part)}.json"


def run_part(study: Study, root: Path, part: str) -> None:
    """Do one part, or go on with it."""
    started = time.monotonic()
    teacher = root / "teacher" / "model"
    words = part.split()
    if words[0] == "texts":
        for name in ("train", "val", "choice"):
            texts(name, root)
    elif words[0] == "score":
        mp.score(job_of(root, teacher, words[1]), study.scores[words[1]])
    else:
        # a run directory holds one search: each has its own, with a copy of the scores
        own = words[2] == "block"
        run = run_of(words[1], own)
        (root / run).mkdir(exist_ok=True)
        for name in ("scores.safetensors", "run.json"):
            if not (root / run / name).exists():
                (root / run / name).write_bytes((root / study.scored / name).read_bytes())
        searched(study, root, teacher, words[1], run, own)
    write_json(done(root, part), {"seconds": time.monotonic() - started})


def run_of(budget: str, own: bool) -> str:
    """The run directory of a search of one step."""
    name = plain_name(budget)
    return f"search.{name}.block" if own else f"search.{name}"


def searched(
    study: Study, root: Path, checkpoint: Path, budget: str, run: str, own: bool
) -> Checkpoint:
    """The best student of our search over all axes; ``own``: each block its own sizes."""
    job = job_of(root, checkpoint, run)
    mp.score(job, study.scores[study.scored])
    mp.search(job, study.search(job.parent.architecture, budget, own))
    return next(iter(mp.prune(job).values()))
