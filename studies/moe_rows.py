"""The rows of studies/moe.py: how each one cuts the teacher, and one case's run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from moe_search import SCORED, run_of, searched
from moe_texts import plain_name, texts

from minipuzzle.arch import Architecture, Selection
from minipuzzle.arch.narrow import kept
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks
from minipuzzle.metrics import Metrics, measure
from minipuzzle.model import HybridLM, load_frozen, load_model, mixed_precision
from minipuzzle.runs.distill import write_student
from minipuzzle.scores import Scores
from minipuzzle.settings import Training
from minipuzzle.surgery import cut
from minipuzzle.training import distillation, train
from minipuzzle.training.trained import choose_trained

BATCH, STEPS = 32, 3
SEEDS = (0, 1)
RATES = (5e-4, 1.5e-3)
BUDGETS = ("75%", "50%", "active=75%")
Select = Callable[[Checkpoint, Path, str, int], Selection]
"""(teacher, root, budget, seed) -> what stays."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to cut. ``select`` is None for those that search, all blocks of experts alike unless
    ``per_block``.
    """

    name: str
    budgets: tuple[str, ...]
    select: Select | None = None
    steps: int = 1
    per_block: bool = False


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


def by_experts(score: str) -> Select:
    """The best experts by a score, equally many in each block; "random" draws them."""

    def select(teacher: Checkpoint, root: Path, budget: str, seed: int) -> Selection:
        name = SCORED[0] if score == "random" else score
        scores = Scores.load(root / name / "scores.safetensors")
        if score == "random":
            draw = np.random.default_rng(seed)
            drawn = {i: draw.random(len(v)) for i, v in scores.widths["experts"].items()}
            scores = replace(scores, widths={**scores.widths, "experts": drawn})
        return narrowest(teacher, scores, "experts", 1, budget)

    return select


def by_axis(axis: str, step: int) -> Select:
    """The best indices of one axis, equally many in each block."""

    def select(teacher: Checkpoint, root: Path, budget: str, seed: int) -> Selection:
        scores = Scores.load(root / SCORED[0] / "scores.safetensors")
        return narrowest(teacher, scores, axis, step, budget)

    return select


ROWS = (
    Row(name="three steps", budgets=BUDGETS[1:2], steps=STEPS),
    Row(name="reap", budgets=BUDGETS[:2], select=by_experts("reap")),
    Row(name="frequency", budgets=BUDGETS[:2], select=by_experts("frequency")),
    Row(name="random", budgets=BUDGETS[:2], select=by_experts("random")),
    Row(name="width", budgets=BUDGETS, select=by_axis("expert_width", 16)),
    Row(name="chosen", budgets=BUDGETS[2:], select=by_axis("top_k", 1)),
    Row(name="search", budgets=BUDGETS),
    Row(name="search a block", budgets=BUDGETS[:2], per_block=True),
)
"""The longest first: while it runs the others do."""


def searches() -> list[tuple[str, bool]]:
    """(budget, each block its own sizes) of the searches of one step."""
    rows = [row for row in ROWS if row.select is None and row.steps == 1]
    return [(budget, row.per_block) for row in rows for budget in row.budgets]


def size(architecture: Architecture, budget: str) -> int:
    """What a budget is about."""
    active = budget.startswith("active=")
    return architecture.active_parameters if active else architecture.parameters


def narrowest(teacher: Checkpoint, scores: Scores, axis: str, step: int, budget: str) -> Selection:
    """The largest size of an axis, in all blocks that have it, with which the budget is met."""
    parent = teacher.architecture
    limit = float(budget.split("=")[-1].strip("%")) / 100 * size(parent, budget)
    whole = next(b.sizes[axis] for b in parent.blocks if axis in b.sizes)
    for count in range(whole, 0, -step):
        sizes = {axis: count}
        blocks = tuple(kept(b, scores.of(i), sizes) for i, b in enumerate(parent.blocks))
        selection = Selection(blocks=blocks)
        if size(selection.student(parent), budget) <= limit:
            return selection
    raise ValueError(f"{axis} alone does not reach {budget}")


def run_case(root: Path, case: Case, tokens: int) -> None:
    """Cut, measure, recover, measure; ``case.path(root)``. Steps that an earlier call finished are
    not done again.
    """
    torch.manual_seed(case.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    row = next(row for row in ROWS if row.name == case.row)
    teacher = Checkpoint.open(root / "teacher" / "model")
    rate = case.rate or best_rate(root, case)
    frozen, val = load_frozen(teacher, device=device), texts("val", root)
    folder, source = root / "work" / case.name, teacher
    folder.mkdir(parents=True, exist_ok=True)
    for step in range(row.steps):
        after_step = folder / f"student{step}"
        if after_step.exists():
            source = Checkpoint.open(after_step)
            continue
        student = cut_out(root, case, row, source, step)
        model = load_model(student, device=device).eval()
        if step == row.steps - 1:
            before = measured(model, val, frozen)
        recover(
            model,
            frozen,
            root,
            folder / f"state{step}",
            rate,
            tokens // row.steps,
            case.seed + step,
        )
        if step < row.steps - 1:
            source = saved(model, student, after_step)
    after, chosen = measured(model, val, frozen), measured(model, texts("choice", root), None)
    write_json(
        case.path(root),
        {
            **asdict(case),
            "rate": rate,
            "tokens": tokens,
            "parameters": student.architecture.parameters,
            "active": student.architecture.active_parameters,
            "pattern": student.architecture.pattern,
            "sizes": [b.sizes for b in student.architecture.blocks if "experts" in b.sizes],
            "choice": chosen.loss,
            "before": plain(before),
            "after": plain(after),
            "teacher": plain(measured(frozen, val, None)),
        },
    )
    shutil.rmtree(folder)


def cut_out(root: Path, case: Case, row: Row, source: Checkpoint, step: int) -> Checkpoint:
    """What a step begins to recover."""
    folder = root / "work" / case.name
    if row.select is not None:
        shutil.rmtree(folder / "cut", ignore_errors=True)
        return cut(source, row.select(source, root, case.budget, case.seed), folder / "cut")
    if row.steps == 1:
        candidates = root / run_of(case.budget, row.per_block) / "candidates"
        return Checkpoint.open(next(candidates.iterdir()))
    # each step the same share of the one before
    whole = Checkpoint.open(root / "teacher" / "model").architecture.parameters
    share = (float(case.budget.strip("%")) / 100) ** ((step + 1) / row.steps)
    limit = str(int(share * whole))
    return searched(root, source.path, limit, f"work/{case.name}/s{step}")


def best_rate(root: Path, case: Case) -> float:
    """The rate with the lower loss on ``choice`` with the first seed."""
    tried = [replace(case, rate=rate, seed=SEEDS[0]).path(root) for rate in RATES]
    results = [json.loads(path.read_text()) for path in tried]
    return float(min(results, key=lambda result: result["choice"])["rate"])


def recover(
    model: HybridLM,
    teacher: HybridLM,
    root: Path,
    folder: Path,
    rate: float,
    tokens: int,
    seed: int,
) -> None:
    """Distil from the whole teacher, routers as they are: distill's default."""
    choose_trained(model, "all-but-routers")
    settings = Training(
        tokens=tokens, learning_rate=rate, batch=BATCH, seed=seed, final_ratio=0.02, save_every=1e9
    )
    train(model, distillation(teacher), texts("train", root), settings, folder, identity=str(seed))
    shutil.rmtree(folder, ignore_errors=True)


def saved(model: HybridLM, source: Checkpoint, target: Path) -> Checkpoint:
    """A trained student as a checkpoint."""
    state = model.state_dict()
    write_student(source, state.__getitem__, target)
    return Checkpoint.open(target)


def measured(model: HybridLM, text: TokenBlocks, teacher: HybridLM | None) -> Metrics:
    """By domain."""
    with mixed_precision(next(model.parameters()).device):
        return measure(model.eval(), text, batch=32, teacher=teacher)


def plain(metrics: Metrics) -> dict[str, object]:
    """For JSON."""
    found = {"loss": metrics.loss, "kl": metrics.kl, "agreement": metrics.agreement}
    return found | {name: own.loss for name, own in metrics.domains.items()}
