"""minipuzzle report: one page about a run."""

from __future__ import annotations

from minipuzzle.commands._shared import RUN, Run, out


def report(run: Run = RUN) -> None:
    """Write report.html: one file with the strips, scores, candidates, loss curves and numbers."""
    from minipuzzle.report.page import build_report

    out.print(f"report: {build_report(run)}", soft_wrap=True)
