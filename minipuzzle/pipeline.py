"""The order of the rooms. ``compress`` reads like the paper's figure (arXiv:2504.03624,
MiniPuzzle).
"""

from __future__ import annotations

from pathlib import Path

from minipuzzle.importance.amount import check_settings
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.timing import load_timing
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.records import EvalResult
from minipuzzle.report.page import build_report
from minipuzzle.rundir import RunDir
from minipuzzle.runs.checks import open_distill
from minipuzzle.runs.distill import run_distill
from minipuzzle.runs.evaluate import run_eval
from minipuzzle.runs.job import Job
from minipuzzle.runs.prune import run_prune
from minipuzzle.runs.score import run_score
from minipuzzle.runs.search import LATENCY, run_search
from minipuzzle.settings import Recipe


def compress(recipe: Recipe, run: Path) -> tuple[EvalResult, Path]:
    """Score, search, prune, distil, evaluate, report; (what eval.json holds, the report's
    path).

    A stage whose inputs did not change is kept from the last time. Under torchrun all processes
    share the work of all stages but pruning and the report, which the first one does.
    """
    recipe.search.check_budget()
    job = Job(
        RunDir(run), checkpoint=Path(recipe.checkpoint), data=recipe.data, device=recipe.device
    )
    with job.run.locked(), ranks(job.device) as group:
        _check(job, recipe, group)
        run_score(job, recipe.score)
        run_search(job, recipe.search)
        group.by_first(lambda: list(run_prune(job)))
        run_distill(job, recipe.distill, teacher_path=None)
        measured = run_eval(job, others=[])
        return measured, group.by_first(lambda: build_report(run))


def _check(job: Job, recipe: Recipe, group: Ranks) -> None:
    """Open every text and setting before the first long stage. Raises: UserError for what a later
    one would stumble over.
    """
    parent = job.parent.architecture
    group.first_then_all(lambda: job.text("calibration"))
    check_settings(recipe.score, parent)
    make_plan(parent, recipe.search, load_timing(recipe.search, job.run / LATENCY))
    open_distill(job, recipe.distill, None, [parent], group)
