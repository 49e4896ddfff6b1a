"""What a model is and needs. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from minipuzzle.settings import job
from minipuzzle.settings.declare import group, needed
from minipuzzle.settings.search import SearchSettings


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Show the layer pattern, parameters and memory of a model, from its config.json alone."""

    SECTION: ClassVar[str] = "inspect"

    path: Path = needed("Checkpoint, or a folder with a config.json.", argument=True)
    workload: SearchSettings = group(
        SearchSettings(), only=("context", "batch", "weights", "kv", "state")
    )
    as_json: bool = job.as_json()
