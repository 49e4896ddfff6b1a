"""minipuzzle report: one page about a run."""

from __future__ import annotations

from minipuzzle.commands._shared import out
from minipuzzle.rundir import RunDir
from minipuzzle.settings.report import ReportCommand


def run(line: ReportCommand) -> None:
    """Write the page."""
    from minipuzzle.report.page import build_report

    with RunDir(line.run).locked():
        page = build_report(line.run)
    out.print(f"report: {page}", soft_wrap=True)
