"""One page about a run. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minipuzzle.settings import job


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Write report.html: one file with the layer patterns, scores, candidates, loss curves and
    numbers.
    """

    run: Path = job.run_directory()
