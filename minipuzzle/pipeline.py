"""The order of the rooms. ``compress`` reads like the paper's figure (arXiv:2504.03624,
MiniPuzzle).
"""

from __future__ import annotations

import logging
from pathlib import Path

from minipuzzle.cost.files import files_of
from minipuzzle.importance.amount import check_settings
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.steps import FIRST, StepPlan, plan_steps
from minipuzzle.nas.timing import load_timing
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.records import EvalResult
from minipuzzle.report.card import write_card
from minipuzzle.report.page import build_report
from minipuzzle.rundir import RunDir
from minipuzzle.runs.checks import open_distill
from minipuzzle.runs.distill import run_distill
from minipuzzle.runs.evaluate import run_eval
from minipuzzle.runs.job import Job
from minipuzzle.runs.prune import run_prune
from minipuzzle.runs.qad import run_qad, without
from minipuzzle.runs.score import run_score
from minipuzzle.runs.search import LATENCY, run_search
from minipuzzle.runs.steps import drop_before, finish_step, first_step, step_keys
from minipuzzle.settings import DistillSettings, Recipe, ScoreSettings, SearchSettings
from minipuzzle.space import fitted

log = logging.getLogger(__name__)


def compress(recipe: Recipe, run: Path) -> tuple[EvalResult, Path]:
    """Score, search, prune, distil, evaluate, report: once, or in each of the recipe's steps; (what
    eval.json holds, the report's path).

    A stage whose inputs did not change is kept from the last time. Under torchrun all processes
    share the work of all stages but pruning and the report, which the first one does.
    """
    if recipe.steps:
        return _in_steps(recipe, run)
    recipe.search.check_budget()
    job = Job(
        RunDir(run), checkpoint=Path(recipe.checkpoint), data=recipe.data, device=recipe.device
    )
    parent, search, distill = job.parent.architecture, recipe.search, recipe.distill
    with job.run.locked(), ranks(job.device) as group:
        _check_score(job, recipe.score, group)
        files = files_of(job.parent, search.formats)
        make_plan(parent, search, load_timing(search, run / LATENCY), files)
        open_distill(job, distill, None, [parent], group)
        measured = _stages(job, recipe.score, search, distill, group)
        return measured, group.by_first(lambda: build_report(run))


def _in_steps(recipe: Recipe, run: Path) -> tuple[EvalResult, Path]:
    """Each step in a run directory of its own, ``steps/1`` and so on, the last one in ``run``. Its
    parent is the student of the step before, its teacher the original.
    """
    whole = RunDir(run)

    def job_in(folder: str, parent: Path, original: Path | None) -> Job:
        return Job(
            RunDir(run / folder),
            checkpoint=parent,
            data=recipe.data,
            device=recipe.device,
            original=original,
            tokens=run / "tokens",
        )

    job = job_in(FIRST, Path(recipe.checkpoint), None)
    original = job.parent
    with whole.locked(), ranks(job.device) as group:
        _check_score(job, recipe.score, group)
        timing = load_timing(recipe.search, run / LATENCY)
        plan = plan_steps(recipe, original.architecture, timing)
        for step in plan:
            open_distill(job, step.distill, None, [original.architecture], group)
        keys = step_keys(job, plan, recipe.score)
        begin = group.by_first(lambda: first_step(whole, plan, keys))
        for step, key in zip(plan[begin:], keys[begin:], strict=True):
            log.info(step.sentence())
            if step.number > 1:
                job = job_in(step.folder, run / step.parent, original.path)
            measured, page = _step(job, whole, recipe, step, key, group)
        return measured, page


def _step(
    job: Job, whole: RunDir, recipe: Recipe, step: StepPlan, key: str, group: Ranks
) -> tuple[EvalResult, Path]:
    with job.run.locked():
        search = step.search
        if step.number > 1:
            search = fitted(search, job.parent.architecture)
        distill = step.distill if step.number == step.of else without(step.distill)
        measured = _stages(job, recipe.score, search, distill, group)
        finish_step(job, whole, step, key, measured)

        def show() -> Path:
            write_card(job.run.path)  # with this step's row, which its distillation did not know
            page = build_report(job.run.path)
            if recipe.drop_steps:
                drop_before(whole.path, step)
            return page

        return measured, group.by_first(show)


def _check_score(job: Job, settings: ScoreSettings, group: Ranks) -> None:
    """As the checks beside it: open every text and setting before the first long stage. Raises:
    UserError for what a later one would stumble over.
    """
    group.first_then_all(lambda: job.text("calibration"))
    check_settings(settings, job.parent.architecture)


def _stages(
    job: Job, score: ScoreSettings, search: SearchSettings, distill: DistillSettings, group: Ranks
) -> EvalResult:
    run_score(job, score)
    run_search(job, search)
    group.by_first(lambda: list(run_prune(job)))
    run_distill(job, without(distill), teacher_path=None)
    measured = run_eval(job, others=[])
    if distill.student_precision != "bf16":
        run_qad(job, distill, teacher_path=None)
    return measured
