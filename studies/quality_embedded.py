r"""What pruning the embedded teacher costs, by what is cut and how it is recovered. Table:
docs/results/embedded.md.

    python studies/quality_embedded.py --text .carry/corpus --device cuda --workers 6 \
        --out docs/results/embedded.json

Every row has the same token budget, data, batch and schedule; seeds change the order of the data
(and the fresh weights of rows from scratch). Scores decide what is cut; "random" and "magnitude"
cut the shape that ours found. Selection and learning rate (our student's at each budget and number
of tokens, for all rows like it) are chosen on one half of the validation text, losses are reported
on the other.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from quality_students import CHOICE_BLOCKS, SPACES, keep, search, texts

from minipuzzle import embedded
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.importance import magnitude_scores, random_scores, score
from minipuzzle.metrics import answers, measure
from minipuzzle.model import init_model, load_model
from minipuzzle.nas.select import select
from minipuzzle.settings import ScoreSettings, Training
from minipuzzle.space import Shape
from minipuzzle.training import distillation, mixed_precision, next_token, train

RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)
TARGET = "ours, 5 % of teacher's tokens"
SCRATCH_RATE = 3e-3


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training run: the student in ``path`` (or its shape with fresh weights), recovered by
    ``objective``.
    """

    row: str
    budget: str
    path: str
    objective: str
    fresh: bool
    tokens: int
    rate: float
    seed: int
    device: str
    text: str
    cache: str
    batch: int


def main() -> None:
    """Run everything and write JSON; progress on the terminal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--text", type=Path, required=True, help="folder with training text and val/"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=4_000_000)
    parser.add_argument("--target-tokens", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    started = time.time()
    work = Path(tempfile.mkdtemp())
    text = {
        "text": str(options.text),
        "cache": str(work),
        "device": options.device,
        "batch": options.batch,
    }
    students, facts = prepare(options, work)
    say(
        started,
        "students cut: "
        + ", ".join(f"{k} {v['parameters']:,}" for k, v in facts["students"].items()),
    )
    common = {"tokens": options.tokens, "fresh": False, "objective": "kl", **text}
    results: list[dict[str, Any]] = []
    pool = ProcessPoolExecutor(options.workers, mp_context=get_context("spawn"))

    def run(tasks: list[Task]) -> list[dict[str, Any]]:
        done = []
        for future in as_completed([pool.submit(work_on, task) for task in tasks]):
            done.append(future.result())
            results.append(done[-1])
            write_json(options.out, {**facts, "runs": results, "seconds": time.time() - started})
            r = done[-1]
            say(
                started,
                f"{r['budget']} {r['row']:<28} seed {r['seed']} rate {r['rate']:g} "
                f"{r['before']['loss']:.4f} -> {r['after']['loss']:.4f}  {r['seconds']:.0f} s",
            )
        return done

    with pool:
        target = {**common, "tokens": options.target_tokens}
        sweep = run(
            [
                Task(
                    row=f"sweep {row}",
                    budget=budget,
                    path=students[f"{budget} ours"],
                    rate=rate,
                    seed=0,
                    **how,
                )
                for row, budget, how in (
                    (TARGET, "83%", target),
                    ("ours", "83%", common),
                    ("ours", "60%", common),
                )
                for rate in RATES
            ]
        )
        best = {
            key: min(
                (r for r in sweep if (r["row"], r["budget"]) == key), key=lambda r: r["choice_loss"]
            )["rate"]
            for key in {(r["row"], r["budget"]) for r in sweep}
        }
        tasks = [
            Task(
                row=TARGET,
                budget="83%",
                path=students["83% ours"],
                rate=best[f"sweep {TARGET}", "83%"],
                seed=seed,
                **target,
            )
            for seed in range(options.seeds)
        ]
        for seed in range(options.seeds):
            for name, path in students.items():
                budget, row = name.split(" ", 1)
                tasks.append(
                    Task(
                        row=row,
                        budget=budget,
                        path=path,
                        rate=best["sweep ours", budget],
                        seed=seed,
                        **common,
                    )
                )
            for budget in ("83%", "60%"):
                ours, rate = students[f"{budget} ours"], best["sweep ours", budget]
                tasks.append(
                    Task(
                        row="ours, cross-entropy",
                        budget=budget,
                        path=ours,
                        rate=rate,
                        seed=seed,
                        **{**common, "objective": "ce"},
                    )
                )
                tasks.append(
                    Task(
                        row="same shape from scratch",
                        budget=budget,
                        path=ours,
                        rate=SCRATCH_RATE,
                        seed=seed,
                        **{**common, "objective": "ce", "fresh": True},
                    )
                )
        run(tasks)


def prepare(options: argparse.Namespace, work: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Score the teacher, search each space at both budgets, and cut every student; (paths,
    facts).
    """
    device = torch.device(options.device)
    parent = Checkpoint.open(embedded.teacher_path())
    model = load_model(parent, device=device).eval()
    blocks = texts(options.text, work, "train")
    choice = texts(options.text, work, "val").every_other(0)
    choice = choice.take(min(len(choice), CHOICE_BLOCKS))
    settings = ScoreSettings(samples=options.samples, block_samples=options.samples // 2)
    ours = score(parent, blocks, settings, device=device, partial=work / "partial")
    with mixed_precision(device):
        said = answers(model, choice)
        students: dict[str, str] = {}
        shapes: dict[str, Shape] = {}
        for budget in ("83%", "60%"):
            for space, least in SPACES.items():
                shape, selection = search(model, ours, budget, least, choice, said)
                students[f"{budget} {space}"] = keep(parent, selection, work / f"{budget} {space}")
                shapes[f"{budget} {space}"] = shape
            same = shapes[f"{budget} ours"]
            for name, scores in (
                ("magnitude", magnitude_scores(model)),
                ("random", random_scores(parent.architecture, 0)),
            ):
                students[f"{budget} {name} scores"] = keep(
                    parent, select(parent.architecture, scores, same), work / f"{budget} {name}"
                )
        teacher = {
            half: asdict(measure(model, texts(options.text, work, "val").every_other(half)))
            for half in (0, 1)
        }
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    facts = {
        "device": name,
        "torch": torch.__version__,
        "options": {k: str(v) for k, v in vars(options).items()},
        "teacher": {"parameters": parent.parameters, **teacher[1]},
        "shapes": {name: shape.plain() for name, shape in shapes.items()},
        "block_scores": ours.blocks.tolist(),
        "students": {
            n: {
                "parameters": Checkpoint.open(Path(p)).parameters,
                "pattern": Checkpoint.open(Path(p)).architecture.pattern,
            }
            for n, p in students.items()
        },
    }
    return students, facts


def work_on(task: Task) -> dict[str, Any]:
    """Train one student and measure it before and after."""
    torch.set_num_threads(2)
    device = torch.device(task.device)
    teacher = (
        load_model(Checkpoint.open(embedded.teacher_path()), device=device)
        .eval()
        .requires_grad_(False)
    )
    student = Checkpoint.open(Path(task.path))
    model = load_model(student, device=device).eval()
    if task.fresh:
        model = init_model(student.architecture, task.seed, device=device)
    blocks = texts(Path(task.text), Path(task.cache), "train")
    val = texts(Path(task.text), Path(task.cache), "val")
    choice, report = val.every_other(0), val.every_other(1)
    settings = Training(
        tokens=task.tokens,
        learning_rate=task.rate,
        batch=task.batch,
        seed=task.seed,
        final_ratio=0.02,
        save_every=1e9,
    )
    with mixed_precision(device):
        before = measure(model, report, batch=32, teacher=teacher)
    start = time.time()
    objective = next_token if task.objective == "ce" else distillation(teacher)
    with tempfile.TemporaryDirectory() as folder:
        train(model, objective, blocks, settings, Path(folder), identity=json.dumps(asdict(task)))
    seconds = time.time() - start
    with mixed_precision(device):
        after = measure(model, report, batch=32, teacher=teacher)
        chosen = measure(model, choice, batch=32).loss
    facts = {k: v for k, v in asdict(task).items() if k not in ("path", "text", "cache")}
    return {
        **facts,
        "before": asdict(before),
        "after": asdict(after),
        "choice_loss": chosen,
        "seconds": seconds,
    }


def say(started: float, text: str) -> None:
    """A line with the seconds since the start."""
    print(f"{time.time() - started:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
