"""Which cheap first run tells which candidate will heal best? Decides the heat of minipuzzle distill. docs/results/heats.md.

    python benchmarks/heats.py --text .carry/text --teacher LARGER --budgets 90% 70% --device cuda --workers 18 --out heats.json
    python benchmarks/heats.py --report heats.json

For each budget the sixteen first of ``--method solver``'s short list are trained in every way below, each way from the pruned
weights, and for 300,000 tokens with two seeds, which is the truth (on the other half of the held-out text). The report plays
each rule on those numbers: so many candidates, the best three of a heat, the winner of a short run; its regret is the
winner's loss above the best of all sixteen. Rules cost what they train. The text's halves, rates and sizes are those of
search_quality.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import search_quality as quality
import torch

from minipuzzle import embedded
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.distill import mixed_precision
from minipuzzle.model import load_model
from minipuzzle.search.rank import Realised, optimum, shortlist
from minipuzzle.surgery import cut

POOL = 16
WAYS = {  # name -> (the way that it goes on from, tokens, batch)
    "67k": ("", 66_667, 16), "67k small": ("", 66_667, 4), "100k": ("", 100_000, 16), "100k small": ("", 100_000, 4),
    "200k": ("", 200_000, 16), "200k small": ("", 200_000, 4), "67k + 133k": ("67k", 133_333, 16),
    "67k + 133k small": ("67k small", 133_333, 4),
}  # fmt: skip
HEATS = ("kl", "67k", "67k small", "100k", "100k small")
SHORTS = ("67k + 133k", "67k + 133k small", "200k", "200k small")
SEEDS, TOKENS, TRUTH_BATCH = 2, 300_000, 16


def main() -> None:
    """Train everything and write JSON after each candidate, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, nargs="+", help="JSON files to report on; nothing is run")
    parser.add_argument("--text")
    parser.add_argument("--teacher", default=str(embedded.teacher_path()))
    parser.add_argument("--latency", default="", help="a latency table, for budgets of time")
    parser.add_argument("--budgets", nargs="+", default=["80%"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--pool", type=int, default=POOL)
    parser.add_argument("--share", type=float, default=1.0, help="of all tokens, to try whether it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.report:
        rows = [row for file in options.report for row in json.loads(file.read_text())["rows"]]
        print(report(rows))
        return
    options.estimator, started, work = "mixed", time.time(), Path(tempfile.mkdtemp())
    plain = {"text": options.text, "device": options.device, "rate": 1e-3, "moves": options.moves, "cache": str(work),
             "pool": options.pool, "share": options.share}  # fmt: skip
    scores, _ = quality.prepare(Path(options.teacher), options, work, 0)
    tasks = [
        quality.Task(teacher=options.teacher, scores=str(scores), budget=budget, method="solver + reality",
                     latency=options.latency if "x" in budget else "", options=tuple(plain.items()))
        for budget in options.budgets
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        found = [pool.submit(find, task, work) for task in tasks]
        jobs = [pool.submit(measure, *one) for search in as_completed(found) for one in search.result()]
        for job in as_completed(jobs):
            rows.append(job.result())
            write_json(options.out, {"rows": rows, "device": options.device, "seconds": time.time() - started})
            quality.say(started, json.dumps(rows[-1]))
    print(report(rows))


def find(task: quality.Task, work: Path) -> list[tuple[quality.Task, str, dict[str, Any]]]:
    """The short list of a budget, cut and on disk: (task, folder, what it is)."""
    torch.set_num_threads(1)
    options = dict(task.options)
    device, cache = torch.device(options["device"]), Path(options["cache"])
    parent = Checkpoint.open(Path(task.teacher))
    model = load_model(parent, device=device).eval()
    text = quality.texts(options["text"], cache, "val").every_other(0).take(quality.CHOICE_BLOCKS)
    settings, scores, plan = quality.set_up(task, model)
    with mixed_precision(device):
        ranked, _ = quality.realised(plan, scores, quality.choices_of(settings, scores, plan), settings,
                                     quality.realiser(model, text), options["moves"])  # fmt: skip
    solved = optimum(ranked).candidate.name
    result = []
    for place, one in enumerate(shortlist(ranked, options["pool"], "kl")):
        folder = Path(tempfile.mkdtemp(dir=work))
        cut(parent, one.candidate.selection, folder / "student")
        result.append((task, str(folder / "student"), facts(one, place, solved)))
    return result


def facts(one: Realised, place: int, solved: str) -> dict[str, Any]:
    """What is known of a candidate before any training."""
    return {"name": one.candidate.name, "place": place, "optimum": one.candidate.name == solved, "kl": one.reality.kl,
            "damage": one.candidate.damage}  # fmt: skip


def measure(task: quality.Task, folder: str, known: dict[str, Any]) -> dict[str, Any]:
    """Train a candidate in every way."""
    torch.set_num_threads(1)
    options, student = dict(task.options), Checkpoint.open(Path(folder))
    device, cache, share = torch.device(options["device"]), Path(options["cache"]), options["share"]
    teacher = load_model(Checkpoint.open(Path(task.teacher)), device=device).eval().requires_grad_(False)
    text = quality.texts(options["text"], cache, "val")
    choice, report_text = text.every_other(0).take(quality.CHOICE_BLOCKS), text.every_other(1)
    models, ways = {}, {}
    for name, (before, tokens, batch) in WAYS.items():
        models[name] = models.pop(before) if before else load_model(student, device=device).eval()
        ways[name] = quality.trained(models[name], teacher, {**options, "batch": batch}, int(share * tokens), 0, choice)
    truth = [
        quality.trained(load_model(student, device=device).eval(), teacher, {**options, "batch": TRUTH_BATCH},
                        int(share * TOKENS), seed, report_text)
        for seed in range(SEEDS)
    ]  # fmt: skip
    return {"teacher": Path(task.teacher).name, "budget": task.budget, "time": bool(task.latency), **known,
            "pattern": student.architecture.pattern, "ways": ways, "truth": truth}  # fmt: skip


def report(rows: list[dict[str, Any]]) -> str:
    """Markdown: each rule's mean and largest regret over all budgets, cheapest first, in 1,000 tokens trained."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["teacher"], row["budget"]), []).append(row)
    lines = ["| candidates | heat | goes on besides the best three | short run | 1,000 tokens | mean regret | largest | at |",
             "|--:|---|---|---|--:|--:|--:|---|"]  # fmt: skip
    found = []
    for pool in (3, 6, 9, 12, 16):
        for heat in HEATS if pool > 3 else ("kl",):
            for seat in ("", "the solver's optimum") if pool > 3 else ("",):
                for short in SHORTS:
                    regrets = {key: regret(group, pool, heat, bool(seat), short) for key, group in groups.items()}
                    worst = max(regrets, key=regrets.__getitem__)
                    found.append((cost(pool, heat, bool(seat), short), pool, heat, seat, short,
                                  statistics.fmean(regrets.values()), regrets[worst], " ".join(worst)))  # fmt: skip
    for tokens, pool, heat, seat, short, mean, worst, where in sorted(found):
        lines.append(f"| {pool} | {heat} | {seat} | {short} | {tokens:,.0f} | {mean:.4f} | {worst:.4f} | {where} |")
    return "\n".join(lines)


def regret(group: list[dict[str, Any]], pool: int, heat: str, seat: bool, short: str) -> float:
    """The loss of a rule's winner above the best of all candidates, nats/token."""
    final = {row["name"]: statistics.fmean(row["truth"]) for row in group}
    entered = sorted(group, key=lambda row: row["place"])[:pool]
    order = sorted(entered, key=lambda row: row["kl"] if heat == "kl" else row["ways"][heat])
    on = order[:3] + [row for row in order[3:] if seat and row["optimum"]]
    winner = min(on, key=lambda row: row["ways"][short])
    return final[winner["name"]] - min(final.values())


def cost(pool: int, heat: str, seat: bool, short: str) -> float:
    """1,000 tokens that a rule trains on: a short run that begins with the heat's own tokens does not train them twice."""
    before, tokens, _ = WAYS[short]
    if before and before != heat:
        tokens += WAYS[before][1]
    return (pool * (0 if heat == "kl" else WAYS[heat][1]) + (3 + seat) * tokens) / 1000


if __name__ == "__main__":
    main()
