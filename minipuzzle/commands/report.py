"""minipuzzle report: one page about a run."""

from __future__ import annotations

from minipuzzle.commands._shared import RUN, Run, out
from minipuzzle.rundir import RunDir


def report(run: Run = RUN) -> None:
    """Write report.html: one file with the strips, scores, candidates, loss curves and numbers."""
    from minipuzzle.report.page import build_report

    with RunDir(run).locked():
        page = build_report(run)
    out.print(f"report: {page}", soft_wrap=True)
