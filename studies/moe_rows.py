"""The rows of studies/moe.py: how each one cuts the teacher, and one case's run."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

import minipuzzle as mp
from minipuzzle import embedded
from minipuzzle.arch import Architecture, Selection
from minipuzzle.arch.narrow import kept
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.metrics import Metrics, measure
from minipuzzle.model import HybridLM, load_frozen, load_model, mixed_precision
from minipuzzle.scores import Scores
from minipuzzle.settings import Data, ScoreSettings, SearchSettings, Training
from minipuzzle.surgery import cut
from minipuzzle.training import distillation, train

LENGTH, BATCH, STEPS = 512, 32, 3
SEEDS = (0, 1)
RATES = (5e-4, 1.5e-3)
BUDGETS = ("75%", "50%", "active=75%")
SCORED = ("reap", "frequency", "random")
TEXTS = Path(".carry/moe")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to cut. ``select`` makes (teacher, root, budget) a selection; None for those that
    search, all blocks of experts alike unless ``per_block``.
    """

    name: str
    budgets: tuple[str, ...]
    select: Callable[[Checkpoint, Path, str], Selection] | None = None
    steps: int = 1
    per_block: bool = False

    def cuts(self, budget: str) -> bool:
        """Whether the row can reach a budget."""
        return budget in self.budgets


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row at one budget, trained at one rate with one seed; rate 0 is the better one of the
    first seed.
    """

    row: str
    budget: str
    rate: float
    seed: int

    def path(self, root: Path) -> Path:
        """Its result."""
        name = f"{self.row}.{self.budget}.{self.rate:g}.{self.seed}.json".replace("%", "")
        return root / "cases" / name

    def words(self) -> list[str]:
        """It as options."""
        return [word for k, v in asdict(self).items() for word in (f"--{k}", str(v))]


def by_experts(score: str) -> Callable[[Checkpoint, Path, str], Selection]:
    """The best experts by a score, equally many in each block."""

    def select(teacher: Checkpoint, root: Path, budget: str) -> Selection:
        scores = Scores.load(root / score / "scores.safetensors")
        return narrowest(teacher, scores, "experts", 1, budget)

    return select


def by_axis(axis: str, step: int) -> Callable[[Checkpoint, Path, str], Selection]:
    """The best indices of one axis, equally many in each block."""

    def select(teacher: Checkpoint, root: Path, budget: str) -> Selection:
        scores = Scores.load(root / SCORED[0] / "scores.safetensors")
        return narrowest(teacher, scores, axis, step, budget)

    return select


ROWS = (
    Row(name="reap", budgets=BUDGETS[:2], select=by_experts("reap")),
    Row(name="frequency", budgets=BUDGETS[:2], select=by_experts("frequency")),
    Row(name="random", budgets=BUDGETS[:2], select=by_experts("random")),
    Row(name="width", budgets=BUDGETS, select=by_axis("expert_width", 16)),
    Row(name="chosen", budgets=BUDGETS[2:], select=by_axis("top_k", 1)),
    Row(name="search", budgets=BUDGETS),
    Row(name="search a block", budgets=BUDGETS[:2], per_block=True),
    Row(name="three steps", budgets=BUDGETS[1:2], steps=STEPS),
)
TRIED = {
    "experts": range(8, 33, 4),
    "expert_width": range(128, 513, 32),
    "shared_width": (256, 384, 512),
    "top_k": (2, 3, 4),
}
"""Sizes that a search tries of each axis of experts: some hundred options a block."""


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


def texts(name: str, root: Path) -> TokenBlocks:
    """A text, tokenised once."""
    tokenizer = Tokenizer.load(embedded.teacher_path())
    return load_blocks(TEXTS / name, tokenizer, block_length=LENGTH, cache=root / "tokens")


def job_of(root: Path, checkpoint: Path, run: str) -> mp.Job:
    """A job on the texts of this study."""
    data = Data(
        calibration=str(TEXTS / "calibration"), validation=str(TEXTS / "choice"), length=LENGTH
    )
    return mp.load(checkpoint, run=root / run, data=data)


def prepare(root: Path) -> None:
    """What all cases share: the teacher's scores, a run directory for each estimator of experts;
    the searches of one step; the texts' tokens.
    """
    teacher = root / "teacher" / "model"
    for name in SCORED:
        mp.score(job_of(root, teacher, name), settings_of(name))
    for row in ROWS:
        for budget in row.budgets if row.select is None and row.steps == 1 else ():
            run = run_of(row, budget)
            shutil.copytree(root / SCORED[0], root / run)  # its scores are this search's too
            searched(root, teacher, budget, run, row.per_block)
    for name in ("train", "val", "choice"):
        texts(name, root)


def run_of(row: Row, budget: str) -> str:
    """The run directory of a search of one step."""
    return f"{row.name.replace(' ', '_')}.{budget.strip('%').replace('=', '.')}"


def settings_of(experts: str) -> ScoreSettings:
    """As many blocks of text as there are."""
    return ScoreSettings(samples=512, block_samples=32, batch=16, experts=experts)


def searched(
    root: Path, checkpoint: Path, budget: str, run: str, per_block: bool = False
) -> Checkpoint:
    """The best student of our search over all axes."""
    job = job_of(root, checkpoint, run)
    mp.score(job, settings_of(SCORED[0]))
    sizes = next(b.sizes for b in job.parent.architecture.blocks if "experts" in b.sizes)
    vary = [
        f"{axis}={','.join(str(n) for n in tried if n <= sizes[axis])}"
        for axis, tried in TRIED.items()
    ]
    settings = SearchSettings(
        budget=(budget,),
        method="solver",
        min_keep=("others=75%",),
        vary=tuple(vary),
        uniform=not per_block,
        candidates=48,
        validation_blocks=32,
        refine=48,
        top=1,
    )
    mp.search(job, settings)
    return next(iter(mp.prune(job).values()))


def run_case(root: Path, case: Case, tokens: int) -> None:
    """Cut, measure, recover, measure; ``case.path(root)``."""
    torch.manual_seed(case.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    row = next(row for row in ROWS if row.name == case.row)
    path = root / "teacher" / "model"
    teacher, rate = Checkpoint.open(path), case.rate or best_rate(root, case)
    frozen, val = load_frozen(teacher, device=device), texts("val", root)
    choice = texts("choice", root)
    before: Metrics | None = None
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        folder = Path(scratch)
        student = teacher
        for step in range(row.steps):
            source = student
            if row.select is not None:
                student = cut(source, row.select(source, root, case.budget), folder / "cut")
            elif row.steps == 1:
                student = Checkpoint.open(
                    next((root / run_of(row, case.budget) / "candidates").iterdir())
                )
            else:
                share = (float(case.budget.strip("%")) / 100) ** ((step + 1) / row.steps)
                limit = str(int(share * teacher.architecture.parameters))
                student = searched(root, source.path, limit, f"{folder.name}/s{step}")
            model = load_model(student, device=device).eval()
            if step == row.steps - 1 or before is None:
                before = measured(model, val, frozen)
            recover(
                model, frozen, root, folder / f"state{step}", rate, tokens // row.steps, case.seed
            )
            if step < row.steps - 1:
                student = saved(model, student, folder / f"student{step}")
        after, chosen = measured(model, val, frozen), measured(model, choice, None)
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
    """Distil from the whole teacher."""
    settings = Training(
        tokens=tokens, learning_rate=rate, batch=BATCH, seed=seed, final_ratio=0.02, save_every=1e9
    )
    train(model, distillation(teacher), texts("train", root), settings, folder, identity=str(seed))
    shutil.rmtree(folder, ignore_errors=True)


def saved(model: HybridLM, source: Checkpoint, target: Path) -> Checkpoint:
    """A trained student as a checkpoint."""
    from minipuzzle.checkpoint import write_checkpoint

    state = model.state_dict()
    write_checkpoint(
        target,
        model.architecture,
        lambda name: state[name].to(torch.bfloat16).cpu(),
        source=source,
        config=source.config,
        extra={},
    )
    return Checkpoint.open(target)


def measured(model: HybridLM, text: TokenBlocks, teacher: HybridLM | None) -> Metrics:
    """By domain."""
    with mixed_precision(next(model.parameters()).device):
        return measure(model.eval(), text, batch=32, teacher=teacher)


def plain(metrics: Metrics) -> dict[str, object]:
    """For JSON."""
    found = {"loss": metrics.loss, "kl": metrics.kl, "agreement": metrics.agreement}
    return found | {name: own.loss for name, own in metrics.domains.items()}
