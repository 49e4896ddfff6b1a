"""minipuzzle search: the architectures that fit a budget, evaluated and ranked."""

from __future__ import annotations

from pathlib import Path

from minipuzzle.commands._shared import command, config_only, make_job, out, print_json
from minipuzzle.settings.search import SearchCommand


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
        result = run_search(job, line.settings)
        if line.as_json:
            print_json(result.json())
            return
        out.print(candidates_table(result))
        if result.front:
            from minipuzzle.report.plots import draw_front
            from minipuzzle.report.svg import save_png

            save_png(lambda axes: draw_front(axes, result), line.run / "pareto.png")
            out.print(f"picture: {line.run / 'pareto.png'}")
        out.print(f"search: {line.run / 'search.json'}    next: minipuzzle distill")


def _plan(line: SearchCommand, folder: Path) -> None:
    from minipuzzle.checkpoint.config import read_config
    from minipuzzle.nas.plan import make_plan
    from minipuzzle.nas.timing import load_timing
    from minipuzzle.report.tables import plan_view

    timing = load_timing(line.settings, line.run / "latency.json")
    plan = make_plan(read_config(folder)[1], line.settings, timing)
    if line.as_json:
        maximal = [row.json() for row in plan.maximal()]
        print_json({**plan.summary().json(), "maximal": maximal})
        return
    for sentence in plan.sentences():
        out.print(sentence)
    out.print(plan_view(plan.summary(), plan.maximal()))
