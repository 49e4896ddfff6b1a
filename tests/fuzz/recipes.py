"""Budgets, and recipes: whole and field by field."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .case import MISSING, RANDOM, put, search, write
from .runs import of_run

BUDGETS = (
    *(
        "",
        " ",
        "٨٣%",
        "８３%",
        "1e999",
        "-1",
        "-83%",
        "0",
        "0%",
        "NaN",
        "nan%",
        "inf",
        "47 B",
        "47b",
        "47,000,000",
        "1_000",
        "101%",
    ),
    *(
        "200%",
        "100%",
        "83 %",
        "83%%",
        "%",
        "B",
        "5GiB",
        "-5GiB",
        "0GiB",
        "1e3GiB",
        "1e-9%",
        "83.5%",
        "83..5%",
        "83%,31GiB",
        "1.2x",
    ),
    *(
        "0x",
        "x",
        "1x",
        "0x10",
        "१२",
        "1e5",
        "290000",
        "9" * 24,
        "0.0000001B",
        "1GB",
        "1TiB",
        "1KiB",
        "300KiB",
        "auto",
        "\0",
        "47B\n",
    ),
    *(
        "½",
        "²",
        "47Ｂ",
        "1/2",
        "83%;rm",
        "--budget",
        "5ms",
        "-5ms",
        "0ms",
        "5ms@b1",
        "5ms@b1,p64,o8",
        "5ms@b0,p0,o0",
        "decode=5ms",
    ),
    *(
        "5ms@b99999999999,p64,o8",
        "10tok/s",
        "10tok/s@b1,p64,o8",
        "x@b1",
        "1.2x@",
        "1.2x@b1,p64,o8@b1",
        "None",
        "True",
        "[]",
    ),
    *(
        "83%" * 1000,
        "9" * 5000,
        "9" * 5000 + "%",
        "1e308B",
        "1e309B",
        "1." + "0" * 5000 + "x",
        "1.2x@b" + "9" * 5000,
        "memory=80%",
    ),
    *(
        "memory=5x",
        "prefill=1e99x",
        "decode=1e-99x",
        "total=1e99s",
        "throughput=1e-99tok/s@b1,p8,o1",
        "1e-99ms@b1,p8,o1",
    ),
)
PAIRS = (
    ("83%", "200%"),
    ("96%", "96%"),
    ("96%", "1KiB"),
    ("96%", "280000"),
    ("1.2x", "96%"),
    ("96%", "x"),
    ("90%", "95%"),
)
GOOD = {
    "checkpoint": "ck",
    "run": "out",
    "device": "cpu",
    "data": {
        "train": "text.txt",
        "calibration": "text.txt",
        "validation": "text.txt",
        "length": 64,
        "seed": 0,
    },
    "score": {
        "samples": 4,
        "block_samples": 2,
        "batch": 2,
        "estimator": "mixed",
        "metric": "mse",
        "curves": True,
        "iterative": 0,
        "seed": 0,
    },
    "search": {
        "budget": "96%",
        "multiple": 8,
        "candidates": 3,
        "validation_blocks": 2,
        "top": 1,
        "context": 8192,
        "batch": 1,
        "method": "minipuzzle",
        "min_keep": ["width=50%"],
        "refine": 1,
    },
    "distill": {
        "short_tokens": 256,
        "loss": "forward-kl",
        "adapter": {"kind": "", "rank": 2},
        "training": {
            "tokens": 256,
            "batch": 1,
            "learning_rate": 5e-4,
            "clip": 1.0,
            "warmup": 0.1,
            "final_ratio": 0.1,
            "weight_decay": 0.1,
            "seed": 0,
            "save_every": 30.0,
            "precision": "bf16",
            "micro_batch": 0,
        },
    },
}
PRETRAIN = {
    "model": {
        "model_type": "llama",
        "vocab_size": 4096,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "tokenizer": "ck",
    "device": "cpu",
    "data": {"train": "text.txt", "validation": "text.txt", "length": 64},
    "training": {"tokens": 256, "batch": 1},
}
_BOMB = 'a: &a ["x","x","x","x","x","x","x","x","x"]\n' + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [" + ",".join([f"*{chr(97 + i)}"] * 9) + "]\n" for i in range(9)
)
TEXTS = {
    "bomb": _BOMB,
    "bomb as the run": _BOMB + "run: *i\n",
    "bomb inside": _BOMB + "search: {min_keep: *i}\n",
    "a key twice": yaml.safe_dump(GOOD) + "\ncheckpoint: big\n",
    "python": '!!python/object/apply:os.system ["touch PWNED"]',
    "python inside": "checkpoint: !!python/object/new:os.system [touch PWNED]",
    "tabs": "checkpoint:\tck\n\tdata: x",
    "tab": "data:\n\tlength: 3",
    "empty": "",
    "null": "null",
    "list": "- a",
    "number": "5",
    "text": "abc",
    "UTF-16": b"\xff\xfe",
    "random": RANDOM,
    "deep": "[" * 5000,
    "deep tables": "{a: " * 5000,
    "two": "a: 1\n---\nb: 2\n",
    "date": "checkpoint: 2020-01-01",
    "number as a key": "1: 2",
    "null as a key": "null: 2",
    "list as a key": "? [a]\n: b",
    "zero byte": 'a: "\0"',
    "zero byte as a path": 'checkpoint: "a\\0b"',
    "half a character": 'checkpoint: "\\ud800"',
    "itself": "&a [*a]",
    "itself inside": "data: &d\n  train: *d\n",
    "merge": "<<: 5",
    "digits": "search: {budget: 96%, candidates: " + "9" * 5000 + "}",
    "octal": "data: {length: 0o100}",
}
VALUES = {
    "null": None,
    "text": "abc",
    "negative": -1,
    "zero": 0,
    "huge": 10**25,
    "huge float": 1e25,
    "fraction": 1.5,
    "list": [1],
    "table": {"a": 1},
    "nan": float("nan"),
    "infinite": float("inf"),
    "true": True,
    "empty": "",
    "texts": ["a", "b"],
}


def budgets(base: Path) -> Iterator[tuple[Any, ...]]:
    """Budgets as people might write them."""
    for budget in BUDGETS:
        yield f"{budget[:24]!r} {len(budget)}", search(f"--budget={budget}"), of_run(base)
    for pair in PAIRS:
        yield f"{pair}", search(*(f"--budget={budget}" for budget in pair)), of_run(base)


def recipes(base: Path) -> Iterator[tuple[Any, ...]]:
    """Recipes to run, and to train a teacher by."""
    for command in ("run", "pretrain"):
        for name, text in TEXTS.items():
            if command == "run" and name in ("empty", "null"):  # right: a run of all defaults
                continue
            yield f"{command}, {name}", (command, "r.yaml", "--run", "out"), write("r.yaml", text)
    for place in _places(GOOD):
        for name, value in VALUES.items():
            yield f"{'.'.join(place)} is {name}", *_recipe(place, value)
        yield f"{'.'.join(place)} misspelt", *_recipe((*place[:-1], place[-1] + "x"), 1)
        if place in (("checkpoint",), ("run",), ("device",), ("search",)):
            yield f"{place[0]} is missing", *_recipe(place, MISSING)
    yield "missing", ("run", "nope.yaml")
    yield "folder", ("run", "ck")
    yield "pipe", ("run", "f.yaml"), lambda folder: os.mkfifo(folder / "f.yaml")
    yield "a config", ("run", "ck/config.json")


def _places(value: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, inner in value.items():
        yield (*at, key)
        if isinstance(inner, dict):
            yield from _places(inner, (*at, key))


def _recipe(place: tuple[str, ...], value: Any) -> tuple[Any, ...]:
    changed = copy.deepcopy(GOOD)
    put(place, value)(changed)
    return ("run", "r.yaml", "--run", "out"), write("r.yaml", yaml.safe_dump(changed))
