"""A run as data: what ``minipuzzle run`` and ``minipuzzle pretrain`` read from one YAML file
(``recipe_file``). No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from minipuzzle.settings import job
from minipuzzle.settings.data import Data
from minipuzzle.settings.declare import group, needed, setting
from minipuzzle.settings.distill import DistillSettings
from minipuzzle.settings.score import ScoreSettings
from minipuzzle.settings.search import SearchSettings
from minipuzzle.settings.training import Training


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One complete compression run, from a checkpoint (a folder, or "embedded" for the demo's
    teacher) to a report.
    """

    SECTION: ClassVar[str] = "job"

    checkpoint: str = needed("Checkpoint folder, or embedded for the teacher of the demo.")
    run: str = setting(str(job.RUN), "Run directory.")
    device: str = setting("auto", "Where to compute: auto, cpu or cuda.")
    data: Data = group(Data())
    score: ScoreSettings = group(ScoreSettings())
    search: SearchSettings = group(SearchSettings())
    distill: DistillSettings = group(DistillSettings())


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """A model trained from nothing: ``model`` holds the fields of its config.json, model_type among
    them. ``tokenizer`` is a folder with a tokenizer.json, or "embedded".
    """

    SECTION: ClassVar[str] = "job"

    model: dict[str, Any] = needed("Fields of the config.json of the model.")
    tokenizer: str = needed("Folder with a tokenizer.json, or embedded.")
    run: str = setting(str(job.RUN), "Run directory.")
    device: str = setting("auto", "Where to compute: auto, cpu or cuda.")
    data: Data = group(Data())
    training: Training = group(Training())


@dataclass(frozen=True, kw_only=True)
class RunCommand:
    """Run a whole recipe: score, search, prune, distil, eval, report."""

    recipe: Path = needed("YAML recipe.", argument=True, name="job.recipe")
    run: Path | None = setting(
        None,
        "Run directory.",
        short="r",
        shown="the recipe's",
        panel=job.PANEL,
        common=True,
        name="job.run",
    )
    as_json: bool = job.as_json()


@dataclass(frozen=True, kw_only=True)
class PretrainCommand:
    """Train a hybrid from nothing with a recipe; run/model is an ordinary checkpoint."""

    recipe: Path = needed("YAML recipe.", argument=True, name="job.recipe")
    run: Path | None = setting(
        None,
        "Run directory.",
        short="r",
        shown="the recipe's",
        panel=job.PANEL,
        common=True,
        name="job.run",
    )


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Compress the embedded teacher to 83 % of its parameters: the whole pipeline in a few minutes
    on two cores.
    """

    run: Path = job.run_directory(Path("minipuzzle-demo"))
    device: str = job.device()
    as_json: bool = job.as_json()
