r"""Which search finds the better student: the same budget, scores, text and short distillation for
each. docs/results/search.md.

    python studies/search_quality.py --text .carry/text --device cuda --workers 8 \
        --out docs/results/search.json

Methods: MiniPuzzle's grid (rank by accuracy and agreement), the solver alone (least summed damage,
nothing evaluated), the solver with reality check (evaluated, ranked by KL, local search),
Minitron's uniform shapes (the ten largest of the grid, best loss, as mcore_minitron does), greedy
(cheapest step down until it fits) and random (scores without information, same walk). The grid and
the reality check end with the three best distilled for --short-tokens, the lowest loss winning, as
both papers do; the reality check picks its three by screening nine, as minipuzzle distill does.
Half of the validation text chooses, the other half reports.

    python studies/search_quality.py --text TEXT --latency t1.json t2.json \
        --budgets 1.25x@b1,p512,o64 2x@b1,p512,o64

bounds time instead: one latency table (minipuzzle profile) for each teacher.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from search_methods import Task, search
from search_recovery import CHOICE_BLOCKS, short_runs, texts, trained

from minipuzzle import embedded
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.importance import score
from minipuzzle.metrics import measure
from minipuzzle.model import load_model
from minipuzzle.settings import ScoreSettings
from minipuzzle.surgery import cut
from minipuzzle.training import mixed_precision

METHODS = ("grid", "solver", "solver + reality", "minitron", "greedy", "random")


def main() -> None:
    """Run everything and write JSON after each search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True, help="folder with training text and val/")
    parser.add_argument("--teachers", nargs="+", default=[str(embedded.teacher_path())])
    parser.add_argument(
        "--hidden-size", action="store_true", help="solver + reality may narrow the hidden size too"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--budgets", nargs="+", default=["90%", "80%", "70%", "60%", "50%"])
    parser.add_argument(
        "--latency",
        nargs="*",
        default=[],
        help="a latency table for each teacher, for time budgets",
    )
    parser.add_argument("--estimator", default="mixed")
    parser.add_argument("--short-tokens", type=int, default=200_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    started, work = time.time(), Path(tempfile.mkdtemp())
    shared = {**vars(options), "cache": str(work)}
    names = (
        "text",
        "device",
        "tokens",
        "short_tokens",
        "batch",
        "rate",
        "seeds",
        "moves",
        "cache",
        "hidden_size",
    )
    plain = tuple((k, shared[k]) for k in names)
    tasks, teachers = [], {}
    for number, path in enumerate(options.teachers):
        file, teachers[path] = prepare(Path(path), options, work, number)
        say(started, f"scored {path}: loss {teachers[path]['loss']:.4f}")
        tasks += [
            Task(
                teacher=path,
                scores=str(file),
                budget=budget,
                method=method,
                options=plain,
                latency=options.latency[number] if options.latency else "",
            )
            for budget in options.budgets
            for method in options.methods
        ]
    rows: list[dict[str, Any]] = []
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work_on, task) for task in tasks]):
            row = future.result()
            rows.append(row)
            if "error" in row:
                say(started, f"{row['budget']} {row['method']}: {row['error']}")
                continue
            write_json(
                options.out,
                {
                    "device": name,
                    "options": {k: str(v) for k, v in vars(options).items()},
                    "teachers": teachers,
                    "rows": rows,
                    "seconds": time.time() - started,
                },
            )
            say(
                started,
                f"{Path(row['teacher']).name} {row['budget']} {row['method']:<17}"
                f" {row['before']['loss']:.4f} -> "
                + " ".join(f"{loss:.4f}" for loss in row["after"])
                + f"  {row['seconds']:.0f} s",
            )


def prepare(
    path: Path, options: argparse.Namespace, work: Path, number: int
) -> tuple[Path, dict[str, Any]]:
    """Score a teacher once for all searches; (file of the scores, the teacher's loss)."""
    device = torch.device(options.device)
    parent = Checkpoint.open(path)
    model = load_model(parent, device=device).eval()
    settings = ScoreSettings(
        samples=options.samples, block_samples=options.samples // 4, estimator=options.estimator
    )
    scores = score(
        parent,
        texts(options.text, work, "train"),
        settings,
        device=device,
        partial=work / f"partial{number}",
    )
    with mixed_precision(device):
        report = measure(model, texts(options.text, work, "val").every_other(1), batch=32)
    file = work / f"scores{number}.safetensors"
    scores.save(file)
    return file, {
        "parameters": parent.parameters,
        "pattern": parent.architecture.pattern,
        **asdict(report),
    }


def work_on(task: Task) -> dict[str, Any]:
    """One row; a method that finds nothing is a row with its error."""
    try:
        return row_of(task)
    except UserError as error:
        return {
            "teacher": task.teacher,
            "budget": task.budget,
            "method": task.method,
            "error": str(error),
        }


def row_of(task: Task) -> dict[str, Any]:
    """Search with one method, distil the winner with each seed, and measure."""
    options = dict(task.options)
    torch.set_num_threads(1)
    started, device, cache = time.time(), torch.device(options["device"]), Path(options["cache"])
    parent = Checkpoint.open(Path(task.teacher))
    teacher = load_model(parent, device=device).eval().requires_grad_(False)
    val = texts(options["text"], cache, "val")
    choice, report = val.every_other(0), val.every_other(1)
    with mixed_precision(device):
        selections, tried = search(task, teacher, choice.take(CHOICE_BLOCKS), options["moves"])
    with tempfile.TemporaryDirectory() as folder:
        students = [
            cut(parent, selection, Path(folder) / f"student{n}")
            for n, selection in enumerate(selections)
        ]
        student, short = short_runs(students, teacher, options, choice)
        searched = time.time() - started
        with mixed_precision(device):
            before = measure(
                load_model(student, device=device).eval(), report, batch=32, teacher=teacher
            )
        after = [
            trained(
                load_model(student, device=device).eval(),
                teacher,
                options,
                options["tokens"],
                seed,
                report,
            )
            for seed in range(options["seeds"])
        ]
        shape = {
            "pattern": student.architecture.pattern,
            "parameters": student.parameters,
            "ffn": [
                b.sizes["intermediate"] for b in student.architecture.blocks if b.kind == "mlp"
            ],
            "heads": sorted(
                {b.sizes["heads"] for b in student.architecture.blocks if b.kind == "mamba"}
            ),
        }
    return {
        "teacher": task.teacher,
        "budget": task.budget,
        "method": task.method,
        **shape,
        "realised": tried,
        "short": short,
        "before": asdict(before),
        "after": after,
        "search_seconds": searched,
        "seconds": time.time() - started,
    }


def say(started: float, text: str) -> None:
    """A line with the seconds since the start."""
    print(f"{time.time() - started:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    print(json.dumps({"methods": METHODS}))
    main()
