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
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import kept
import search_quality as quality
import torch

from minipuzzle import embedded
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model import load_model
from minipuzzle.nas.rank import Evaluated, optimum, shortlist
from minipuzzle.surgery import cut
from minipuzzle.training import mixed_precision

POOL = 12
WAYS = {  # name -> (the way that it goes on from, tokens, batch)
    "67k": ("", 66_667, 16),
    "67k small": ("", 66_667, 4),
    "67k + 133k": ("67k", 133_333, 16),
    "67k small + 133k": ("67k small", 133_333, 16),
    "200k": ("", 200_000, 16),
}
SCREENINGS = ("kl", "67k", "67k small")
SHORTS = ("67k + 133k", "67k small + 133k", "200k")
SEATS: dict[str, Callable[[dict[str, Any]], bool]] = {  # who goes on whatever the screening says
    "none": lambda row: False,
    "the solver's optimum": lambda row: bool(row["optimum"]),
    "first two": lambda row: row["place"] < 2,
}
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
        quality.Task(
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
        ranked, _ = quality.evaluated(
            plan, scores, settings, quality.evaluator(model, text), options["moves"]
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


def measure(task: quality.Task, folder: str, known: dict[str, Any]) -> dict[str, Any]:
    """Train a candidate in every way."""
    torch.set_num_threads(1)
    options, student = dict(task.options), Checkpoint.open(Path(folder))
    device, cache, share = torch.device(options["device"]), Path(options["cache"]), options["share"]
    teacher = (
        load_model(Checkpoint.open(Path(task.teacher)), device=device).eval().requires_grad_(False)
    )
    text = quality.texts(options["text"], cache, "val")
    choice, report_text = text.every_other(0), text.every_other(1)
    models, ways = {}, {}
    for name, (before, tokens, batch) in WAYS.items():
        models[name] = models.pop(before) if before else load_model(student, device=device).eval()
        ways[name] = quality.trained(
            models[name], teacher, {**options, "batch": batch}, int(share * tokens), 0, choice
        )
    models.clear()
    model = load_model(student, device=device).eval()
    truth = quality.trained(
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


class Rule(NamedTuple):
    """So many of the short list have a screening run; these seats and the best of it go on to the
    short run, whose winner is taken.
    """

    pool: int
    screening: str
    seats: str
    on: int
    short: str

    def goers(self, group: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The candidates of a budget that go on."""
        entered = sorted(group, key=lambda row: row["place"])[: self.pool]
        order = sorted(
            entered,
            key=lambda row: row["kl"] if self.screening == "kl" else row["ways"][self.screening],
        )
        seated = [row for row in entered if SEATS[self.seats](row)]
        return (seated + [row for row in order if row not in seated])[: self.on]

    def winner(self, group: list[dict[str, Any]]) -> dict[str, Any]:
        """Who is taken."""
        return min(self.goers(group), key=lambda row: row["ways"][self.short])

    @property
    def cost(self) -> float:
        """1,000 tokens of training: a short run after a screening run with the same tokens does not
        train them twice.
        """
        before, tokens, _ = WAYS[self.short]
        if before and before != self.screening:
            tokens += WAYS[before][1]
        screened = (
            0
            if self.screening == "kl" or self.on >= self.pool
            else self.pool * WAYS[self.screening][1]
        )
        return (screened + self.on * tokens) / 1000


BEFORE, NOW = (
    Rule(9, "67k", "none", 3, "67k + 133k"),
    Rule(9, "67k small", "none", 3, "67k small + 133k"),
)
SHOWN = (
    BEFORE,
    NOW,
    NOW._replace(seats="the solver's optimum"),
    NOW._replace(on=4),
    NOW._replace(pool=12),
    NOW._replace(short="67k + 133k"),
    NOW._replace(short="200k"),
    BEFORE._replace(short="67k small + 133k"),
    NOW._replace(pool=6, screening="kl", on=5),
)
"""What the page compares with the cheapest: the rule of minipuzzle distill, that of before, and one
thing changed.
"""


def rules() -> list[Rule]:
    """All that make sense, cheapest first."""
    found = [
        Rule(pool, screening, seats, on, short)
        for pool in (6, 9, 12)
        for screening in SCREENINGS
        for seats in SEATS
        for on in (2, 3, 4, 5)
        for short in SHORTS
        if screening != "kl" or pool == 6
    ]
    return sorted(found, key=lambda rule: rule.cost)


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a run, or of docs/results/screening.json.xz (columns and ways named once)."""
    data = kept.read(file)
    if "columns" not in data:
        return list(data["rows"])
    rows = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]
    return [{**row, "ways": dict(zip(data["ways"], row["ways"], strict=True))} for row in rows]


def report(rows: list[dict[str, Any]]) -> str:
    """Markdown: the rules that no cheaper rule beats in mean regret over all budgets, and those
    SHOWN.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["teacher"], row["budget"]), []).append(row)
    head = (
        "candidates",
        "screening",
        "seats",
        "go on",
        "short run",
        "1,000 tokens",
        "mean regret",
        "largest",
        "at",
        "behind the optimum",
        "at most",
    )
    lines = ["| " + " | ".join(head) + " |", "|--:|---|---|--:|---|--:|--:|--:|---|--:|--:|"]
    best = float("inf")
    for rule in rules():
        won = {key: rule.winner(group) for key, group in groups.items()}
        regrets = {
            key: won[key]["truth"] - min(row["truth"] for row in group)
            for key, group in groups.items()
        }
        solved = {
            key: row["truth"] for key, group in groups.items() for row in group if row["optimum"]
        }
        behind = [max(0.0, won[key]["truth"] - truth) for key, truth in solved.items()]
        mean, worst = statistics.fmean(regrets.values()), max(regrets, key=regrets.__getitem__)
        if mean < best or rule in SHOWN:
            best = min(best, mean)
            row = (
                *rule,
                f"{rule.cost:,.0f}",
                f"{mean:.4f}",
                f"{regrets[worst]:.4f}",
                " ".join(worst),
                f"{statistics.fmean(behind):.4f}",
                f"{max(behind):.4f}",
            )
            lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
