"""A run as data: what ``minipuzzle run`` and ``minipuzzle pretrain`` read from one YAML file
(``recipe_file``). No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from minipuzzle.settings.data import Data
from minipuzzle.settings.distill import DistillSettings
from minipuzzle.settings.score import ScoreSettings
from minipuzzle.settings.search import SearchSettings
from minipuzzle.settings.training import Training


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One complete compression run, from a checkpoint (a folder, or "embedded" for the demo's
    teacher) to a report.
    """

    checkpoint: str
    run: str = "minipuzzle-run"
    device: str = "auto"
    data: Data = field(default_factory=Data)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """A model trained from nothing: ``model`` holds the fields of its config.json, model_type among
    them. ``tokenizer`` is a folder with a tokenizer.json, or "embedded".
    """

    model: dict[str, Any]
    tokenizer: str
    run: str = "minipuzzle-run"
    device: str = "auto"
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
