"""One case of a study of cuts: cut, measure, recover, measure."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch
from cuts import SEEDS, Case, Row, Study
from cuts_parts import run_of, searched
from cuts_texts import texts

from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks
from minipuzzle.metrics import Metrics, measure
from minipuzzle.model import HybridLM, load_frozen, load_model, mixed_precision
from minipuzzle.runs.distill import write_student
from minipuzzle.settings import Training
from minipuzzle.surgery import cut
from minipuzzle.training import distillation, train
from minipuzzle.training.trained import choose_trained

BATCH = 32


def run_case(study: Study, root: Path, case: Case, tokens: int) -> None:
    """Cut, measure, recover, measure; ``case.path(root)``. Steps that an earlier call finished are
    not done again.
    """
    torch.manual_seed(case.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    row = study.row(case.row)
    teacher = Checkpoint.open(root / "teacher" / "model")
    rate = case.rate or best_rate(study, root, case)
    frozen, val = load_frozen(teacher, device=device), texts("val", root)
    folder, source = root / "work" / case.name, teacher
    folder.mkdir(parents=True, exist_ok=True)
    for step in range(row.steps):
        after_step = folder / f"student{step}"
        if after_step.exists():
            source = Checkpoint.open(after_step)
            continue
        student = cut_out(study, root, case, row, source, step)
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
            "sizes": [b.sizes for b in student.architecture.blocks if study.told in b.sizes],
            "choice": chosen.loss,
            "before": plain(before),
            "after": plain(after),
            "teacher": plain(measured(frozen, val, None)),
        },
    )
    shutil.rmtree(folder)


def cut_out(
    study: Study, root: Path, case: Case, row: Row, source: Checkpoint, step: int
) -> Checkpoint:
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
    return searched(study, root, source.path, limit, f"work/{case.name}/s{step}", row.per_block)


def best_rate(study: Study, root: Path, case: Case) -> float:
    """The rate with the lower loss on ``choice`` with the first seed."""
    tried = [replace(case, rate=rate, seed=SEEDS[0]).path(root) for rate in study.rates]
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
