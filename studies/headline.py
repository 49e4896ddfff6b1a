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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from headline_stages import Runner, Stage, begin_from
from headline_text import split_validation, tiny_text

from minipuzzle.artifacts import read_json, write_json

HERE = Path(__file__).parent
MODEL = {
    "model_type": "nemotron_h",
    "vocab_size": 4096,
    "hidden_size": 1024,
    "hybrid_override_pattern": "M-M-M*-M-M-M*-M-M-M*-",
    "intermediate_size": 3072,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "mamba_num_heads": 32,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "ssm_state_size": 64,
    "conv_kernel": 4,
    "chunk_size": 128,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
TINY = {
    **MODEL,
    "hidden_size": 64,
    "intermediate_size": 768,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "mamba_num_heads": 4,
    "mamba_head_dim": 32,
    "n_groups": 2,
    "ssm_state_size": 16,
}
BUDGETS = {"83%": ("83%",), "83%, memory": ("83%", "memory=80%"), "60%": ("60%",)}
"""Memory is at 131,072 tokens, where it cannot be had from parameters alone: attention blocks must
go.
"""
SHARES = {"83%": (0.005, 0.024), "83%, memory": (0.005, 0.024), "60%": (0.01, 0.085)}
"""Of the teacher's tokens: each short run, the winner's long run."""
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


def run_of(work: Path, budget: str) -> Path:
    """The run directory of a budget."""
    return work / budget.replace(", ", "-")


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


def student_tokens(name: str, teacher: int) -> tuple[int, int]:
    """(of each short run, of the winner's long run)."""
    short, long = (max(int(share * teacher), 256) for share in SHARES[name])
    return short, long


def batch(options: argparse.Namespace) -> int:
    """Sequences a step, of a student."""
    return 2 if options.tiny else 16


def usual(options: argparse.Namespace) -> tuple[str, ...]:
    """What every stage is told."""
    return flags(
        {"length": 64 if options.tiny else 512, "device": "cpu" if options.tiny else "cuda"}
    )


def flags(named: dict[str, Any]) -> tuple[str, ...]:
    """{"budget": ("83%", "memory=80%")} as words of a command."""
    each = [
        (k, v)
        for k, values in named.items()
        for v in (values if isinstance(values, tuple) else (values,))
    ]
    return tuple(word for k, v in each for word in (f"--{k.replace('_', '-')}", str(v)))


def searching(
    name: str,
    options: argparse.Namespace,
    run: Path,
    own: dict[str, Any],
    after: tuple[str, ...] = ("score",),
) -> Stage:
    """A search from the scores, with options of its ``own``, the budget among them."""
    words = {
        "run": run,
        "data": options.work / "text" / "choose",
        "context": 131072,
        "min_keep": "width=50%",
        "method": "solver",
        "top": 3,
        "candidates": 12 if options.tiny else 60,
        "refine": 6 if options.tiny else 60,
        "validation-blocks": 4 if options.tiny else 64,
    }
    return Stage(
        name=name,
        run=run,
        product=run / "search.json",
        seconds=300,
        after=after,
        prepare=partial(begin_from, options.work / "scored", run),
        words=("search", *flags(words | own), *usual(options)),
    )


def distilling(
    name: str,
    options: argparse.Namespace,
    run: Path,
    own: dict[str, Any],
    source: Path,
    **more: Any,
) -> Stage:
    """A distillation of what was searched in ``source``, with options of its ``own``, the tokens
    and the rate among them.
    """
    words = {
        "run": run,
        "data": options.text,
        "validation": options.work / "text" / "choose",
        "batch": batch(options),
        "seed": 0,
        "precision": options.precision,
    }
    return Stage(
        **{
            "name": name,
            "run": run,
            "product": run / "student" / "config.json",
            "seconds": 300,
            "prepare": partial(begin_from, source, run),
            "words": ("distill", *flags(words | own), *usual(options)),
            **more,
        }
    )


def pretraining(
    name: str,
    model: dict[str, Any] | Path,
    options: argparse.Namespace,
    tokens: int,
    seed: int,
    after: str = "",
) -> Stage:
    """A model from nothing, of a config or of one in a file; its recipe is written beside its run
    directory.
    """
    run, file = options.work / name, options.work / f"{name}.yaml"
    teacher = name == "teacher"
    size = (4 if options.tiny else 128) if teacher else batch(options)

    def prepare() -> None:
        recipe = {
            "model": read_json(model) if isinstance(model, Path) else model,
            "tokenizer": "embedded",
            "device": "cpu" if options.tiny else "cuda",
            "data": {
                "train": str(options.text),
                "validation": str(options.work / "text" / "report"),
                "length": 64 if options.tiny else 512,
            },
            "training": {
                "tokens": tokens,
                "learning_rate": 1.5e-3,
                "batch": size,
                "warmup": 0.02,
                "final_ratio": 0.02,
                "seed": seed,
                "precision": options.precision,
                "save_every": 120.0,
            },
        }
        file.write_text(yaml.safe_dump(recipe))

    return Stage(
        name=name,
        run=run,
        product=run / "model" / "training.json",
        seconds=900 if teacher else 240,
        after=(after,) if after else (),
        prepare=prepare,
        words=("pretrain", str(file), "--run", str(run)),
    )


def measuring(
    options: argparse.Namespace,
    models: dict[str, Path],
    run: Path,
    product: Path,
    after: Sequence[str],
) -> Stage:
    """Losses and tasks of the models on the half that is reported, beside the first of them."""
    return Stage(
        name="tasks",
        run=run,
        product=product,
        seconds=400,
        after=tuple(after),
        words=(
            str(HERE / "headline_tasks.py"),
            *(f"{n}={p}" for n, p in models.items()),
            *flags(
                {
                    "text": options.work / "text" / "report",
                    "out": product,
                    "examples": 20 if options.tiny else 1000,
                }
            ),
            *usual(options),
        ),
    )


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
