"""Why the student of studies/headline.py is as good as it is: its distillation again, one thing
changed a row.

    # 10 minutes of an H100; --gpus 2: 5
    python studies/headline_ablation.py --text .carry/corpus
    # after headline.py --tiny: 4
    python studies/headline_ablation.py --tiny --work /tmp/headline --out /tmp/ablation.json

Begins from the finished --work of headline.py. The row "base" is its winner of 83 % from one run of
as many tokens as its short and its long run had together; the others change the tokens, the
learning rate, the batch, the text, the precision, or which candidate is distilled: the second after
the short runs, and the first of the paper's grid, or of a search that may only take blocks out, or
only narrow FFNs. Every call measures what is distilled by then (losses, KL, tasks:
headline_tasks.py) and writes --out; the same command goes on. A row takes about 40 s of an H100, or
27 s in three lanes (CUDA_VISIBLE_DEVICES=0,0,0 and --gpus 3), with three times the tokens or a
search twice as long; measuring 20 and 10 a row.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import headline
import headline_commands
from headline_stages import Runner, Stage, begin_from

from minipuzzle.artifacts import read_json, write_json
from minipuzzle.records import Distilled
from minipuzzle.rundir import RunDir

BUDGET = "83%"
MEASURING = 150.0
"""Seconds of a call that are kept for measuring."""
SEARCHES: dict[str, dict[str, Any]] = {
    "grid": {"method": "minipuzzle"},
    "depth only": {"min-keep": ("width=100%",)},
    "width only": {"min-keep": ("attention=100%", "others=100%", "width=25%")},
}
"""Options of other searches: the paper's, one that may not narrow, one that may not take out."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A student, what was changed for it, its tokens, and the stages that make it, the last one's
    product the student.
    """

    name: str
    change: str
    tokens: int
    stages: tuple[Stage, ...]

    @property
    def student(self) -> Path:
        """Its checkpoint."""
        return self.stages[-1].product.parent


def main() -> None:
    """Distil what is missing while there is time, measure what is there, keep the results."""
    options = headline.arguments(__doc__, "headline_ablation.json").parse_args()
    until = headline.begin(options)
    training = read_json(options.work / "teacher" / "model" / "training.json")["recipe"]["training"]
    options.precision = training["precision"]
    runner = Runner(options.work, options.out, options.gpus)
    runner.results["options"] = {k: str(v) for k, v in vars(options).items()}
    made = list(rows(options, training["tokens"]))
    failure = None
    try:
        runner.run([stage for row in made for stage in row.stages], until - MEASURING, go_on=True)
    except SystemExit as error:
        failure = error  # the rows that there are count all the same
    made = [row for row in made if row.stages[-1].product.exists()]
    if made and runner.run([measured(options, made)], until):
        facts = {
            row.name: {"change": row.change, "tokens": row.tokens, **of_run(row)} for row in made
        }
        write_json(
            options.out,
            {
                **runner.results,
                "tasks": read_json(options.work / "ablation" / "tasks.json"),
                "rows": facts,
            },
        )
        print(
            json.dumps({name: round(s["seconds"]) for name, s in runner.results["stages"].items()})
        )
    if failure:
        raise failure


def rows(options: argparse.Namespace, teacher_tokens: int) -> Iterator[Row]:
    """All rows, those that say most first. Raises: UserError where headline.py has not distilled
    the 83 % student yet.
    """
    found = RunDir(options.work / BUDGET).stage(Distilled)
    best = sorted(found.short_validation_loss, key=found.short_validation_loss.__getitem__) or [
        found.winner
    ]
    rate, batch = found.learning_rate, headline_commands.batch(options)
    row = partial(
        distilled, options, sum(headline_commands.student_tokens(BUDGET, teacher_tokens)), rate
    )
    text = {kind: next(options.text.glob(f"{kind}.train.*")) for kind in ("prose", "code")}
    yield row("base", "nothing: the winner alone, in one run", best[0])
    yield row("tokens x 3", "tokens x 3", best[0], times=3)
    yield row("rate x 3", f"learning rate {3 * rate:.1e}", best[0], {"learning-rate": 3 * rate})
    yield row("rate x 1/3", f"learning rate {rate / 3:.1e}", best[0], {"learning-rate": rate / 3})
    if len(best) > 1:
        yield row("second", f"{best[1]} after {best[0]} in the short runs", best[1])
    for name, search in SEARCHES.items():
        yield row(name, "search " + " ".join(headline_commands.flags(search)), search=search)
    yield row("prose", "only prose", best[0], {"data": text["prose"]})
    yield row("code", "only code", best[0], {"data": text["code"]})
    yield row("tokens x 1/3", "tokens x 1/3", best[0], times=1 / 3)
    yield row("batch x 2", f"{2 * batch} sequences a step", best[0], {"batch": 2 * batch})
    yield row(
        "bf16",
        f"precision bf16, {options.precision} else (the teacher is in BF16 in all rows)",
        best[0],
        {"precision": "bf16"},
    )


def distilled(
    options: argparse.Namespace,
    tokens: int,
    rate: float,
    name: str,
    change: str,
    candidate: str = "",
    own: dict[str, Any] | None = None,
    *,
    times: float = 1.0,
    search: dict[str, Any] | None = None,
) -> Row:
    """A row: a ``candidate`` of the experiment's search, or with ``search`` the first one of a
    search of its own.
    """
    run, source, tokens = (
        options.work / "ablation" / name.replace("/", "-"),
        options.work / BUDGET,
        round(times * tokens),
    )
    begin = {"prepare": partial(begin_from, source, run, (candidate,)), "after": ()}
    stages = []
    if search:
        stages = [
            headline_commands.searching(
                f"search {name}", options, run, {"budget": BUDGET, **search, "top": 1}, after=()
            )
        ]
        begin = {"after": (stages[0].name,)}
    own = {"tokens": tokens, "learning-rate": rate, **(own or {})}
    stages += [headline_commands.distilling(f"distill {name}", options, run, own, source, **begin)]
    return Row(name=name, change=change, tokens=tokens, stages=tuple(stages))


def measured(options: argparse.Namespace, made: list[Row]) -> Stage:
    """Loss, KL and tasks of the teacher, the experiment's student and the rows, again where a row
    is newer.
    """
    models = {
        "teacher": options.work / "teacher" / "model",
        BUDGET: options.work / BUDGET / "student",
    }
    models |= {row.name: row.student for row in made}
    product = options.work / "ablation" / "tasks.json"
    if product.exists() and any(
        row.stages[-1].product.stat().st_mtime > product.stat().st_mtime for row in made
    ):
        product.unlink()
    return headline_commands.measuring(options, models, product.parent / "tasks", product, after=())


def of_run(row: Row) -> dict[str, Any]:
    """Which candidate, and the KL that training ended with."""
    found = RunDir(row.stages[-1].run).stage(Distilled)
    return {"winner": found.winner, "final_kl": found.final_kl}


if __name__ == "__main__":
    main()
