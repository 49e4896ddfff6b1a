"""Where a run of several steps stands: which of them are finished, and what is kept of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from minipuzzle.errors import UserError
from minipuzzle.identity import fingerprint
from minipuzzle.nas.steps import StepPlan
from minipuzzle.records import EvalResult, SearchResult, StepRow
from minipuzzle.rundir import STEPS, RunDir
from minipuzzle.runs.job import Job
from minipuzzle.settings import ScoreSettings

log = logging.getLogger(__name__)


def step_keys(job: Job, plan: Sequence[StepPlan], score: ScoreSettings) -> list[str]:
    """For each step the hash of all that it and those before it read, from the original on."""
    texts = [job.text(which).fingerprint for which in ("calibration", "validation", "train")]
    keys, before = [], job.original.fingerprint
    for step in plan:
        said = (score.identity(), step.search.identity(), step.distill.decisive())
        before = fingerprint(before, *texts, *said)
        keys.append(before)
    return keys


def first_step(run: RunDir, plan: Sequence[StepPlan], keys: Sequence[str]) -> int:
    """The index of the step to go on with: the last whose parent is there and which follows only
    finished ones.

    Raises: UserError where the run directory is about other steps.
    """
    parent = run.record.parent
    if parent is not None and parent.path != plan[-1].parent:
        raise _another(run, f"a run from {parent.path}")
    rows = (run.record.steps or ())[: len(plan) - 1]
    for row, key in zip(rows, keys, strict=False):
        if row.key != key:
            raise _another(run, f"step {row.number}, finished with other settings or inputs")
    there = [k for k, step in enumerate(plan[: len(rows) + 1]) if _exists(run.path, step.parent)]
    return there[-1]


def finish_step(job: Job, run: RunDir, step: StepPlan, key: str, measured: EvalResult) -> None:
    """Record what a step did, beside the original; ``run`` is that of all steps."""
    teacher, pruned, student = measured.rows
    search = SearchResult.load(job.run / "search.json")
    winner = pruned.path.rpartition("/")[2]
    run.add_step(
        StepRow(
            number=step.number,
            key=key,
            folder=step.folder,
            distill=job.run.key("distill"),
            budget=step.asked,
            pattern=search.candidate(winner).strip,
            parameters=student.parameters,
            active=student.active,
            tokens=step.distill.training.tokens,
            loss=(teacher.loss, pruned.loss, student.loss),
            kl=(teacher.kl, pruned.kl, student.kl),
        )
    )


def drop_before(run: Path, step: StepPlan) -> None:
    """Delete what no later step needs once ``step`` has finished: of those before the last the
    candidates, and the students but the one that the last step begins with.
    """
    for number in range(1, min(step.number + 1, step.of)):
        folder = run / STEPS / str(number)
        unneeded = [folder / "candidates"]
        if number < min(step.number, step.of - 1):
            unneeded.append(folder / "student")
        for path in unneeded:
            if path.exists():
                log.info(f"job.drop_steps: {path} is deleted")
                shutil.rmtree(path)


def _exists(run: Path, parent: str) -> bool:
    return not parent or (run / parent / "config.json").is_file()


def _another(run: RunDir, got: str) -> UserError:
    return UserError(
        f"The run directory {run.path} holds another run.",
        got=got,
        allowed="a new run directory, or the same checkpoint, texts and settings for its finished"
        " steps",
        next="Name another run directory with job.run.",
    )
