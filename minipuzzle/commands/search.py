"""minipuzzle search: the architectures that fit a budget, evaluated and ranked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from minipuzzle.commands._shared import command, config_only, make_job, out, print_json
from minipuzzle.settings import SearchSettings
from minipuzzle.settings.search import SearchCommand

if TYPE_CHECKING:
    from minipuzzle.arch import Architecture


def run(line: SearchCommand) -> None:
    """Search, and print a row a candidate; of a config alone only what the enumeration says."""
    line.settings.check_budget()
    if line.checkpoint is not None and config_only(line.checkpoint):
        _plan(line, line.checkpoint)
        return
    with command(line.run):
        from minipuzzle.report.tables import candidates_table
        from minipuzzle.runs.search import run_search

        job = make_job(line.run, line.checkpoint, line.data, line.device)
        searches = _searches(line, lambda: job.parent.architecture)
        result = run_search(job, searches[0])
        if line.as_json:
            print_json({**result.json(), **_steps(searches)})
            return
        out.print(candidates_table(result))
        if result.front:
            from minipuzzle.report.plots import draw_front
            from minipuzzle.report.svg import save_png

            save_png(lambda axes: draw_front(axes, result), line.run / "pareto.png")
            out.print(f"picture: {line.run / 'pareto.png'}")
        out.print(f"search: {line.run / 'search.json'}    next: minipuzzle distill")
        if len(searches) > 1:
            out.print(_following(searches, line.run), soft_wrap=True)


def _plan(line: SearchCommand, folder: Path) -> None:
    from minipuzzle import families
    from minipuzzle.checkpoint.config import read_config
    from minipuzzle.cost.files import planned_files
    from minipuzzle.nas.plan import make_plan
    from minipuzzle.nas.timing import load_timing
    from minipuzzle.report.tables import plan_view

    config, parent = read_config(folder)
    files = planned_files(families.of(config), parent, line.settings.formats)
    searches = _searches(line, lambda: parent)
    timing = load_timing(searches[0], line.run / "latency.json")
    plan = make_plan(parent, searches[0], timing, files)
    if line.as_json:
        maximal = [row.json() for row in plan.maximal()]
        print_json({**plan.summary().json(), "maximal": maximal, **_steps(searches)})
        return
    for sentence in plan.sentences():
        out.print(sentence)
    out.print(plan_view(plan.summary(), plan.maximal()))
    if len(searches) > 1:
        out.print(_following(searches, line.run), soft_wrap=True)


def _searches(
    line: SearchCommand, parent: Callable[[], Architecture]
) -> tuple[SearchSettings, ...]:
    """The search of each step; the settings as they are where there is one."""
    if line.steps == 1:
        return (line.settings,)
    from minipuzzle.nas.steps import step_searches
    from minipuzzle.nas.timing import load_timing

    timing = load_timing(line.settings, line.run / "latency.json")
    return step_searches(line.settings, (str(line.steps),), parent(), timing)


def _steps(searches: tuple[SearchSettings, ...]) -> dict[str, list[tuple[str, ...]]]:
    return {"steps": [search.budget for search in searches]} if len(searches) > 1 else {}


def _following(searches: tuple[SearchSettings, ...], run: Path) -> str:
    """What follows the first of several steps, as commands."""
    left, there = len(searches) - 1, Path(f"{run}-next")
    said = [f"--budget {text}" for text in searches[-1].budget]
    said += [f"--steps {left}"] if left > 1 else []
    budgets = ", ".join(" and ".join(search.budget) for search in searches)
    return "\n".join(
        (
            f"step 1 of {len(searches)}: budgets {budgets}. To recover it and take the next step:",
            f"  minipuzzle distill --run {run} --teacher ORIGINAL",
            f"  minipuzzle score {run / 'student'} --run {there}",
            f"  minipuzzle search --run {there} {' '.join(said)}",
            "  minipuzzle distill, and so on: each with its share of the tokens, the texts and the"
            " other options as here",
            f'all steps in one command: minipuzzle run RECIPE, with "steps: {len(searches)}" in it',
        )
    )
