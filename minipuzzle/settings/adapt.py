"""An adapter beside frozen weights, and how it is trained. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from minipuzzle.identity import Plain, changed
from minipuzzle.settings import job
from minipuzzle.settings.adapter import AdapterSettings
from minipuzzle.settings.data import Data
from minipuzzle.settings.declare import group, setting
from minipuzzle.settings.training import ADAPT_RATE, Training


@dataclass(frozen=True, kw_only=True)
class AdaptSettings:
    """An adapter and how it is trained."""

    SECTION: ClassVar[str] = "adapt"

    adapter: AdapterSettings = group(AdapterSettings(kind="tl6"))
    training: Training = group(Training(learning_rate=ADAPT_RATE))

    def fixed(self) -> dict[str, Plain]:
        """As ``Training.fixed``."""
        return {**self._others(), "training": self.training.fixed()}

    def decisive(self) -> dict[str, Plain]:
        """As ``Training.decisive``."""
        return {**self._others(), "training": self.training.decisive()}

    def _others(self) -> dict[str, Plain]:
        # The adapter is always said: what a command takes where none is named may change.
        others = changed(self, without=("adapter", "training"))
        return {**others, "adapter": changed(self.adapter)}


@dataclass(frozen=True, kw_only=True)
class AdaptCommand:
    """Train an adapter beside frozen weights, with cross-entropy or with a teacher."""

    SECTION: ClassVar[str] = "adapt"
    PANEL: ClassVar[str] = "Training"

    checkpoint: Path | None = job.checkpoint()
    data: Data = group(
        Data(),
        only=("train", "length", "loss_on", "seed"),
        flags={"train": "data", "seed": "data-seed"},
    )
    settings: AdaptSettings = group(AdaptSettings())
    teacher: Path | None = setting(
        None, "Learn from the distribution of this checkpoint.", unit="checkpoint", common=True
    )
    run: Path = job.run_directory()
    device: str = job.device()
    as_json: bool = job.as_json()
