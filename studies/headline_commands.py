"""The commands of studies/headline.py's stages: pretrain, search, distil, measure."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from headline_stages import Stage, begin_from

from minipuzzle.artifacts import read_json

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


SHARES = {"83%": (0.005, 0.024), "83%, memory": (0.005, 0.024), "60%": (0.01, 0.085)}
"""Of the teacher's tokens: each short run, the winner's long run."""


def run_of(work: Path, budget: str) -> Path:
    """The run directory of a budget."""
    return work / budget.replace(", ", "-")


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
    return tuple(word for k, v in each for word in (f"--{k}", str(v)))


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
        "min-keep": "width=50%",
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
