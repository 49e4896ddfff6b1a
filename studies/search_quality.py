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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.errors import UserError
from minipuzzle.importance import random_scores, score
from minipuzzle.metrics import answers, measure
from minipuzzle.model import HybridLM, load_model
from minipuzzle.nas.choices import make_choices, whole
from minipuzzle.nas.plan import Plan, make_plan
from minipuzzle.nas.propose import candidate, instance, propose_each, state_of
from minipuzzle.nas.rank import Evaluated, Quality, evaluate, reranked, shortlist
from minipuzzle.nas.refine import refine, repair
from minipuzzle.nas.solve import solve
from minipuzzle.nas.timing import load_timing
from minipuzzle.runs.parent import masked_quality
from minipuzzle.runs.race import FINALISTS, Leg, race
from minipuzzle.runs.search import LARGEST
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings, SearchSettings, Training
from minipuzzle.surgery import cut
from minipuzzle.training import distillation, mixed_precision, train

LENGTH = 512
CHOICE_BLOCKS = 48
METHODS = ("grid", "solver", "solver + reality", "minitron", "greedy", "random")
SPACE = ("attention=0%", "others=25%", "width=25%")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One search with its distillations, one for each seed."""

    teacher: str
    scores: str
    budget: str
    method: str
    latency: str
    options: tuple[tuple[str, Any], ...]


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


def short_runs(
    students: list[Checkpoint], teacher: HybridLM, options: dict[str, Any], choice: TokenBlocks
) -> tuple[Checkpoint, list[float]]:
    """(the student with the lowest loss after its short run, the losses): the race of minipuzzle
    distill.
    """
    cuts = {str(n): student for n, student in enumerate(students)}
    models: dict[str, HybridLM] = {}

    def run(name: str, leg: Leg) -> float:
        if not leg.before:
            models[name] = load_model(cuts[name], device=torch.device(options["device"])).eval()
        batch = max(1, options["batch"] // leg.smaller)
        return trained(models[name], teacher, {**options, "batch": batch}, leg.tokens, 0, choice)

    found = race(list(cuts), options["short_tokens"], run)
    return cuts[found.winner], list(found.short.values())


def trained(
    model: HybridLM,
    teacher: HybridLM,
    options: dict[str, Any],
    tokens: int,
    seed: int,
    text: TokenBlocks,
) -> float:
    """The loss on a text of a student after it was distilled with a seed."""
    device = torch.device(options["device"])
    blocks = texts(options["text"], Path(options["cache"]), "train")
    settings = Training(
        tokens=tokens,
        learning_rate=options["rate"],
        batch=options["batch"],
        seed=seed,
        final_ratio=0.02,
        save_every=1e9,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(model, distillation(teacher), blocks, settings, Path(folder), identity=str(seed))
    with mixed_precision(device):
        return measure(model, text, batch=32).loss


def search(
    task: Task, model: HybridLM, choice: TokenBlocks, moves: int
) -> tuple[list[Selection], int]:
    """The selections that a method proposes, best first, and how many models it evaluated for
    them.
    """
    settings, scores, plan = set_up(task, model)
    one = evaluator(model, choice)
    if task.method == "grid":
        ranked = evaluate(plan.candidates(scores, 48), lambda name, kept: one(kept), "agreement")
        return [r.candidate.selection for r in ranked[:FINALISTS]], len(ranked)
    if task.method == "minitron":
        selections = [c.selection for c in plan.largest(scores, LARGEST)]
        return [min(selections, key=lambda selection: one(selection).loss)], len(selections)
    if task.method == "solver + reality":
        ranked, tried = evaluated(plan, scores, settings, one, moves)
        return [r.candidate.selection for r in shortlist(ranked, settings.finalists, "kl")], tried
    prices = plan.prices
    choices = make_choices(
        plan.parent,
        scores,
        plan.widest(settings),
        settings,
        prices.of,
        prices.limits - prices.base,
        prices.names,
    )
    if task.method in ("greedy", "random"):
        state = repair(choices, whole(choices), frozenset(), drops=True)
        if state is None:
            raise UserError(
                "The walk gets stuck above the budget.",
                got=task.budget,
                allowed="a larger one",
                next="-",
            )
        return [choices.selection(state)], 0
    return [choices.selection(state_of(choices, solve(instance(choices))))], 0


def set_up(task: Task, model: HybridLM) -> tuple[SearchSettings, Scores, Plan]:
    """What a search of a budget begins with; time budgets read the task's latency table."""
    settings = SearchSettings(
        budget=(task.budget,),
        min_keep=SPACE,
        mamba_heads=True,
        multiple=32,
        method="solver",
        candidates=24,
    )
    if task.method == "solver + reality" and dict(task.options).get("hidden_size"):
        settings = replace(settings, hidden_size=True, min_keep=(*SPACE, "hidden=75%"))
    scores = (
        random_scores(model.architecture, 0)
        if task.method == "random"
        else Scores.load(Path(task.scores))
    )
    timed = replace(settings, latency=task.latency)
    return (
        settings,
        scores,
        make_plan(model.architecture, timed, load_timing(timed, Path("latency.json"))),
    )


def evaluator(model: HybridLM, choice: TokenBlocks) -> Callable[[Selection], Quality]:
    """What a selection does on the text, with the parent's own answers made once."""
    said = answers(model, choice, batch=16)
    return lambda selection: masked_quality(model, selection, choice, said, batch=16)


def evaluated(
    plan: Plan,
    scores: Scores,
    settings: SearchSettings,
    one: Callable[[Selection], Quality],
    moves: int,
) -> tuple[list[Evaluated], int]:
    """(what ``minipuzzle search --method solver`` evaluates, best KL first, how many models that
    took).
    """
    each = propose_each(plan.parent, scores, plan.widest(settings), settings, plan.prices, 24)
    found = plan.candidates(scores, 24) + plan.largest(scores, LARGEST)
    for proposals in each:
        found += proposals.candidates(plan.bytes, 1 + sum(r.origin == "solver" for r in found))
    ranked = evaluate(found, lambda name, kept: one(kept), "kl")
    starts = (
        (p.choices, p.choices.state(r.candidate.selection), r)
        for r in ranked
        for p in each
        if p.choices.hidden == r.candidate.selection.hidden
    )
    choices, start, first = next(begin for begin in starts if begin[1] is not None)
    end = refine(
        choices, start, first.quality.kl, lambda state: one(choices.selection(state)).kl, moves
    )
    if end.value < first.quality.kl:
        better = candidate(choices, end.state, "r001", "local search", plan.bytes)
        ranked = reranked(
            [*ranked, Evaluated(candidate=better, quality=one(better.selection))], "kl"
        )
    return ranked, len(ranked) + end.tried


def texts(folder: str, cache: Path, which: str) -> TokenBlocks:
    """The training or validation text, tokenised once."""
    tokenizer = Tokenizer.load(embedded.teacher_path())
    path = Path(folder) if which == "train" else Path(folder) / "val"
    return load_blocks(path, tokenizer, block_length=LENGTH, cache=cache)


def say(started: float, text: str) -> None:
    """A line with the seconds since the start."""
    print(f"{time.time() - started:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    print(json.dumps({"methods": METHODS}))
    main()
