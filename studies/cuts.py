"""What a study of cuts is: a teacher is cut in several ways to several sizes, and each student is
measured before and after the same distillation.

A study's script holds a ``Study`` and gives it to ``cuts_main.main``. Seeds and texts are
those of all studies: a row's rate is the better of its study's on ``choice``, with the first seed;
``val`` is measured, which no choice saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from minipuzzle.arch import Architecture, Selection
from minipuzzle.arch.narrow import kept
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings, SearchSettings

SEEDS = (0, 1)
Select = Callable[[Checkpoint, Path, str, int], Selection]
"""(teacher, root, budget, seed) -> what stays."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to cut. ``select`` is None for those that search, all blocks of a kind alike unless
    ``per_block``.
    """

    name: str
    budgets: tuple[str, ...]
    select: Select | None = None
    steps: int = 1
    per_block: bool = False


@dataclass(frozen=True, kw_only=True)
class Study:
    """``script`` is its file, ``scores`` the runs of scores by name, of which the first is searched
    with; ``search`` gives the settings for a parent and a budget. Of students' sizes those of
    blocks with the axis ``told`` are written down.
    """

    script: Path
    rows: tuple[Row, ...]
    budgets: tuple[str, ...]
    scores: Mapping[str, ScoreSettings]
    search: Callable[[Architecture, str, bool], SearchSettings]
    told: str
    rates: tuple[float, ...]

    @property
    def name(self) -> str:
        """That of its script."""
        return self.script.stem

    @property
    def scored(self) -> str:
        """The run of scores that searches read."""
        return next(iter(self.scores))

    def row(self, name: str) -> Row:
        """One of its rows."""
        return next(row for row in self.rows if row.name == name)

    def searches(self) -> list[tuple[str, bool]]:
        """(budget, each block its own sizes) of the searches of one step."""
        rows = [row for row in self.rows if row.select is None and row.steps == 1]
        return [(budget, row.per_block) for row in rows for budget in row.budgets]

    def cases(self, seed: int) -> list[Case]:
        """All of a seed: rates with the first one, the others take the better rate."""
        rates = self.rates if seed == SEEDS[0] else (0.0,)
        return [
            Case(row=row.name, budget=budget, rate=rate, seed=seed)
            for row in self.rows
            for budget in self.budgets
            if budget in row.budgets
            for rate in rates
        ]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row at one budget, trained at one rate with one seed; rate 0 is the better one of the
    first seed.
    """

    row: str
    budget: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """As a file."""
        return plain_name(f"{self.row}.{self.budget}.{self.rate:g}.{self.seed}")

    def path(self, root: Path) -> Path:
        """Its result."""
        return root / "cases" / f"{self.name}.json"

    def words(self) -> list[str]:
        """It as options."""
        return [word for k, v in asdict(self).items() for word in (f"--{k}", str(v))]


def plain_name(text: str) -> str:
    """For a file: a GPU machine brings back no names with odd characters."""
    return text.replace("%", "").replace("=", "-").replace(" ", "_")


def limit(architecture: Architecture, budget: str) -> float:
    """Parameters that a budget allows."""
    return float(budget.split("=")[-1].strip("%")) / 100 * size(architecture, budget)


def size(architecture: Architecture, budget: str) -> int:
    """What a budget is about."""
    active = budget.startswith("active=")
    return architecture.active_parameters if active else architecture.parameters


def narrowest(
    teacher: Checkpoint, scores: Scores, forms: Iterable[Mapping[str, int]], budget: str
) -> Selection:
    """The first of ``forms`` (axis -> size, in all blocks that have it) that meets the budget."""
    parent = teacher.architecture
    for sizes in forms:
        blocks = tuple(kept(b, scores.of(i), sizes) for i, b in enumerate(parent.blocks))
        selection = Selection(blocks=blocks)
        if size(selection.student(parent), budget) <= limit(parent, budget):
            return selection
    raise ValueError(f"none of these sizes reaches {budget}")


def whole(architecture: Architecture, axis: str) -> int:
    """The size of an axis that all blocks with it have."""
    return next(b.sizes[axis] for b in architecture.blocks if axis in b.sizes)
