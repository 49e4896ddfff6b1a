"""A run as data: what ``minipuzzle run`` and ``minipuzzle pretrain`` read from one YAML file
(``recipe_file``). No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from minipuzzle.errors import UserError
from minipuzzle.settings import job
from minipuzzle.settings.bits import WHOLE, parse_bits
from minipuzzle.settings.bounds import settle
from minipuzzle.settings.data import Data
from minipuzzle.settings.declare import group, needed, setting
from minipuzzle.settings.distill import DistillSettings
from minipuzzle.settings.score import ScoreSettings
from minipuzzle.settings.search import SearchSettings
from minipuzzle.settings.steps import check_shares, parse_steps
from minipuzzle.settings.training import Training


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One complete compression run, from a checkpoint (a folder, or "embedded" for the demo's
    teacher) to a report.

    With ``steps`` the model is scored, cut and recovered several times, each time from the student
    of the step before, with the original checkpoint as teacher throughout. All steps together train
    on the tokens of ``distill``, by ``step_shares``. A step's budget is a share of the original's
    parameters, or their number; of ``search.budget`` memory and time hold at the last step.
    """

    SECTION: ClassVar[str] = "job"

    checkpoint: str = needed("Checkpoint folder, or embedded for the teacher of the demo.")
    run: str = setting(str(job.RUN), "Run directory.")
    device: str = setting("auto", "Where to compute: auto, cpu or cuda.")
    data: Data = group(Data())
    score: ScoreSettings = group(ScoreSettings())
    search: SearchSettings = group(SearchSettings())
    distill: DistillSettings = group(DistillSettings())
    steps: tuple[str, ...] = setting(
        (),
        "Cut and recover in steps: the budget of each ([90%, 80%, 70%]), or their number on the way"
        " to search.budget.",
        unit="budget",
        shown="one",
    )
    step_shares: tuple[float, ...] = setting(
        (),
        "How the tokens are shared between the steps: [1, 1, 2].",
        unit="share",
        shown="equally",
        within=(1e-6, 1e6),
    )
    drop_steps: bool = setting(
        False, "Delete the candidates of an earlier step, and its student once no step needs it."
    )

    def __post_init__(self) -> None:
        settle(self)
        if self.steps:
            found = parse_steps(self.steps)
            check_shares(self.step_shares, found if isinstance(found, int) else len(found))
        self._check_bits()
        if not self.steps and (self.step_shares or self.drop_steps):
            raise UserError(
                "job.step_shares and job.drop_steps are about steps, and none is named.",
                got=self.step_shares or "job.drop_steps",
                allowed="them together with job.steps",
                next="Add job.steps, or leave them out.",
            )

    def _check_bits(self) -> None:
        scored = {WHOLE, *parse_bits(self.score.bits).values()}
        unscored = [name for name in self.search.formats.values() if name not in scored]
        if unscored:
            raise UserError(
                "The search chooses formats that score does not measure.",
                got=f"search.bits {self.search.bits}, score.bits {self.score.bits or 'none'}",
                allowed="each format of search.bits in score.bits",
                next=f"Add score.bits: {self.search.bits}.",
            )


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
