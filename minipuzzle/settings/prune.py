"""The cut of the candidates that search kept. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minipuzzle.settings import job


@dataclass(frozen=True, kw_only=True)
class PruneCommand:
    """Cut the candidates that search kept and check that each file is what was planned."""

    run: Path = job.run_directory()
    device: str = job.device()
    as_json: bool = job.as_json()
