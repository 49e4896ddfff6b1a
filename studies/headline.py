"""The papers' experiment on a GPU: a teacher, 83 % and 60 % of it, the same shapes from scratch.
docs/results/headline.md.

    # once, here: the text that travels
    python -m minipuzzle.embedded.corpus --shared ../shared/data --out .carry/corpus
    python studies/headline.py --text .carry/corpus               # the GPU
    # three lanes of one, 18 minutes
    CUDA_VISIBLE_DEVICES=0,0,0 python studies/headline.py --text .carry/corpus --gpus 3
    # two: the teacher alone, then what is independent together
    python studies/headline.py --text .carry/corpus --gpus 2
    # every stage on a CPU: a minute
    python studies/headline.py --tiny --work /tmp/headline --out /tmp/headline.json

A stage whose product is in --work is not run again, and --minutes stops in good order: give the
same command again (headline_stages.py). Kept in --out: each stage's command and seconds, losses and
accuracies, curves, what the searches chose. ``distill`` tries two learning rates in short runs: the
83 % student begins so close to its teacher (KL 0.01) that the usual one does harm. Tokens of a
student are those of its short and its long run together, 2.9 % of the teacher's at 83 %, 9.5 % at
60 %. Validation documents are halved by their hash: one half chooses (search, short runs), the
other is reported. If the student falls short, headline_ablation.py goes on in the same --work.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

from headline_commands import (
    HERE,
    MODEL,
    TINY,
    distilling,
    flags,
    measuring,
    pretraining,
    run_of,
    searching,
    student_tokens,
    usual,
)
from headline_stages import Runner, Stage
from headline_text import split_validation, tiny_text

from minipuzzle.artifacts import read_json, write_json

BUDGETS = {"83%": ("83%",), "83%, memory": ("83%", "memory=80%"), "60%": ("60%",)}
"""Memory is at 131,072 tokens, where it cannot be had from parameters alone: attention blocks must
go.
"""
KEPT = (
    "winner",
    "learning_rate",
    "rate_validation_loss",
    "short_validation_loss",
    "long_validation_loss",
    "final_kl",
    "tokens",
)
"""Of what a distillation recorded."""
SEEDS, RATES = 3, "5e-5,1.5e-4"
"""One or the other was best for every budget of a sweep from 1.5e-5 to 5e-4:
docs/results/headline.md.
"""


def main() -> None:
    """Run what is missing while there is time, then keep the results."""
    parser = arguments(__doc__, "headline_experiment.json")
    parser.add_argument("--teacher-tokens", type=int, default=100_000_000)
    parser.add_argument("--precision", default="fp8", choices=("bf16", "fp8"))
    options = parser.parse_args()
    if options.tiny:
        options.teacher_tokens, options.precision = 40_000, "bf16"
    until = begin(options)
    split_validation(options.text / "val", options.work / "text")
    runner = Runner(options.work, options.out, options.gpus)
    runner.results["options"] = {k: str(v) for k, v in vars(options).items()}
    if runner.run(stages(options), until):
        write_json(options.out, {**runner.results, **kept(options.work)})
        print(
            json.dumps({name: round(s["seconds"]) for name, s in runner.results["stages"].items()})
        )


def arguments(doc: str, out: str) -> argparse.ArgumentParser:
    """The options of the experiment and of its ablation."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, help="folder with {prose,code}.train.txt.xz and val/")
    parser.add_argument("--work", type=Path, default=Path(".carry/headline"))
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results" / out)
    parser.add_argument("--minutes", type=float, default=9.5, help="of this call")
    parser.add_argument(
        "--gpus",
        type=int,
        default=1,
        help="independent stages run side by side, each on one of them",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a small model and text on a CPU, to try every stage"
    )
    return parser


def begin(options: argparse.Namespace) -> float:
    """Settle what --tiny stands for; the time at which this call must be through."""
    options.work = options.work.resolve()
    if options.tiny:
        options.minutes, options.text = 1e3, tiny_text(options.work / "source")
    return time.time() + 60 * float(options.minutes)


def stages(options: argparse.Namespace) -> list[Stage]:
    """All of them in their order, each further seed from its budget's search."""
    work, tiny, models = options.work, options.tiny, {"teacher": options.work / "teacher" / "model"}
    scored = work / "scored"
    first = [pretraining("teacher", TINY if tiny else MODEL, options, options.teacher_tokens, 0)]
    first += [
        Stage(
            name="score",
            run=scored,
            product=scored / "scores.safetensors",
            seconds=300,
            after=("teacher",),
            words=(
                "score",
                str(models["teacher"]),
                *flags(
                    {
                        "run": scored,
                        "data": options.text,
                        "samples": 8 if tiny else 512,
                        "block-samples": 4 if tiny else 128,
                    }
                ),
                "--no-curves",
                *usual(options),
            ),
        )
    ]
    first += [
        searching(f"search {name}", options, run_of(work, name), {"budget": budget})
        for name, budget in BUDGETS.items()
    ]
    made: list[Stage] = []
    for name in BUDGETS:
        run = run_of(work, name)
        short, long = student_tokens(name, options.teacher_tokens)
        for seed in range(1 if options.tiny or name != "83%" else SEEDS):
            own = run if seed == 0 else work / f"{run.name}-seed{seed}"
            made += [
                distilling(
                    f"distill {name}, seed {seed}",
                    options,
                    own,
                    {"tokens": long, "short-tokens": short, "seed": seed, "learning-rate": RATES},
                    run,
                    after=(f"search {name}",),
                )
            ]
            models[name if seed == 0 else f"{name}, seed {seed}"] = own / "student"
        if name != "83%, memory":
            made += [
                pretraining(
                    f"scratch {name}",
                    run / "student" / "config.json",
                    options,
                    short + long,
                    1,
                    after=f"distill {name}, seed 0",
                )
            ]
            models[f"{name} from scratch"] = work / f"scratch {name}" / "model"
    if options.gpus > 1:  # the longest chain first
        made.sort(key=lambda stage: "60%" not in stage.name)
    made = [*first, *made]
    return [
        *made,
        measuring(
            options,
            models,
            work / "tasks",
            work / "tasks.json",
            after=[stage.name for stage in made],
        ),
    ]


def kept(work: Path) -> dict[str, Any]:
    """What remains of the run: tasks, winners and what they are, and thinned curves of training."""
    searches, curves = {}, {}
    for file in sorted(work.glob("*/run.json")):
        found = read_json(file)["stages"].get("distill")
        if found:
            searches[file.parent.name] = {k: found[k] for k in KEPT}
    for file in sorted([*work.glob("*/pretrain/log.csv"), *work.glob("*/distill/long/log.csv")]):
        rows = list(csv.DictReader(file.open()))
        step = max(1, len(rows) // 20)
        points = [[int(float(row["tokens"])), round(float(row["loss"]), 4)] for row in rows[::step]]
        curves[str(file.relative_to(work).parent)] = points
    return {"tasks": read_json(work / "tasks.json"), "distilled": searches, "curves": curves}


if __name__ == "__main__":
    main()
