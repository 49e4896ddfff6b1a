r"""Which cheap first run tells which candidate will recover best? Decides the screening runs of
minipuzzle distill. docs/results/screening.md.

    python studies/screening.py --text .carry/text --teacher LARGER --budgets 90% 70% \
        --device cuda --workers 18 --out screening.json
    python studies/screening.py --report docs/results/screening.json.xz

For each budget the first twelve of ``--method solver``'s short list are trained in every way below,
and for 300,000 tokens with another seed, which is the truth (on the other half of the held-out
text). The report plays each rule on those numbers: so many candidates, the best of a screening
run, the winner of a short run; its regret is the winner's loss above the best of all twelve. Rules
cost what they train. The text's halves, rates and sizes are those of search_quality.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import search_methods
import search_quality as quality
import search_recovery
import torch
from screening_rules import WAYS, report, rows_of

from minipuzzle import embedded
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model import load_model
from minipuzzle.nas.rank import Evaluated, optimum, shortlist
from minipuzzle.surgery import cut
from minipuzzle.training import mixed_precision

POOL = 12
TOKENS, TRUTH_SEED, TRUTH_BATCH = 300_000, 1, 16


def main() -> None:
    """Train everything and write JSON after each candidate, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--report", type=Path, nargs="+", help="JSON files to report on; nothing is run"
    )
    parser.add_argument("--text")
    parser.add_argument("--teacher", default=str(embedded.teacher_path()))
    parser.add_argument("--latency", default="", help="a latency table, for budgets of time")
    parser.add_argument("--budgets", nargs="+", default=["80%"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--pool", type=int, default=POOL)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of all tokens, to try whether it runs"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.report:
        print(report([row for file in options.report for row in rows_of(file)]))
        return
    options.estimator, started, work = "mixed", time.time(), Path(tempfile.mkdtemp())
    plain = {
        "text": options.text,
        "device": options.device,
        "rate": 1e-3,
        "moves": options.moves,
        "cache": str(work),
        "pool": options.pool,
        "share": options.share,
    }
    scores, _ = quality.prepare(Path(options.teacher), options, work, 0)
    tasks = [
        search_methods.Task(
            teacher=options.teacher,
            scores=str(scores),
            budget=budget,
            method="solver + reality",
            latency=options.latency if "x" in budget else "",
            options=tuple(plain.items()),
        )
        for budget in options.budgets
    ]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        found = [pool.submit(find, task, work) for task in tasks]
        jobs = [
            pool.submit(measure, *one) for search in as_completed(found) for one in search.result()
        ]
        for job in as_completed(jobs):
            rows.append(job.result())
            write_json(
                options.out,
                {"rows": rows, "device": options.device, "seconds": time.time() - started},
            )
            quality.say(started, json.dumps(rows[-1]))
    print(report(rows))


def find(
    task: search_methods.Task, work: Path
) -> list[tuple[search_methods.Task, str, dict[str, Any]]]:
    """The short list of a budget, cut and on disk: (task, folder, what it is)."""
    torch.set_num_threads(1)
    options = dict(task.options)
    device, cache = torch.device(options["device"]), Path(options["cache"])
    parent = Checkpoint.open(Path(task.teacher))
    model = load_model(parent, device=device).eval()
    text = (
        search_recovery.texts(options["text"], cache, "val")
        .every_other(0)
        .take(search_recovery.CHOICE_BLOCKS)
    )
    settings, scores, plan = search_methods.set_up(task, model)
    with mixed_precision(device):
        ranked, _ = search_methods.evaluated(
            plan, scores, settings, search_methods.evaluator(model, text), options["moves"]
        )
    solved = optimum(ranked).candidate.name
    result = []
    for place, one in enumerate(shortlist(ranked, options["pool"], "kl")):
        folder = Path(tempfile.mkdtemp(dir=work))
        cut(parent, one.candidate.selection, folder / "student")
        result.append((task, str(folder / "student"), facts(one, place, solved)))
    return result


def facts(one: Evaluated, place: int, solved: str) -> dict[str, Any]:
    """What is known of a candidate before any training."""
    return {
        "name": one.candidate.name,
        "place": place,
        "optimum": one.candidate.name == solved,
        "kl": one.quality.kl,
        "damage": one.candidate.damage,
    }


def measure(task: search_methods.Task, folder: str, known: dict[str, Any]) -> dict[str, Any]:
    """Train a candidate in every way."""
    torch.set_num_threads(1)
    options, student = dict(task.options), Checkpoint.open(Path(folder))
    device, cache, share = torch.device(options["device"]), Path(options["cache"]), options["share"]
    teacher = (
        load_model(Checkpoint.open(Path(task.teacher)), device=device).eval().requires_grad_(False)
    )
    text = search_recovery.texts(options["text"], cache, "val")
    choice, report_text = text.every_other(0), text.every_other(1)
    models, ways = {}, {}
    for name, (before, tokens, batch) in WAYS.items():
        models[name] = models.pop(before) if before else load_model(student, device=device).eval()
        ways[name] = search_recovery.trained(
            models[name], teacher, {**options, "batch": batch}, int(share * tokens), 0, choice
        )
    models.clear()
    model = load_model(student, device=device).eval()
    truth = search_recovery.trained(
        model,
        teacher,
        {**options, "batch": TRUTH_BATCH},
        int(share * TOKENS),
        TRUTH_SEED,
        report_text,
    )
    return {
        "teacher": Path(task.teacher).name,
        "budget": task.budget,
        "time": bool(task.latency),
        **known,
        "pattern": student.architecture.pattern,
        "ways": ways,
        "truth": truth,
    }


if __name__ == "__main__":
    main()
