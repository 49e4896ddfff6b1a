"""Every option of every command, with values that it was not made for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import typer
import yaml

from minipuzzle.cli import app

from .case import TRAINING, cpu, score, search, write
from .recipes import GOOD, PRETRAIN
from .runs import of_run

DATA = ("--data", "text.txt")
WORDS = {
    "inspect": ("ck",),
    "score": score("ck")[1:],
    "search": search("--budget", "96%")[1:],
    "profile": cpu("ck", "--run", "out", "--workload", "b1,p8,o1", "--widths", 2),
    "prune": cpu("--run", "run"),
    "distill": cpu(
        "--run",
        "run",
        *DATA,
        "--validation",
        "text.txt",
        "--short-tokens",
        128,
        *TRAINING,
        "--learning-rate",
        "5e-4",
    ),
    "adapt": cpu("ck", "--run", "out", *DATA, "--rank", 2, *TRAINING),
    "report": ("--run", "run"),
    "merge": ("ck", "run/adapter/adapter.safetensors", "--out", "m"),
    "eval": cpu("--run", "run", *DATA, "--length", 64),
    "generate": cpu("ck", "hello", "--tokens", 2),
    "bench": cpu("ck", "--prompt", 8, "--output", 2, "--seconds", 1),
    "export": ("ck", "--run", "run", "--gguf", "x.gguf"),
    "pretrain": ("p.yaml", "--run", "out"),
    "run": ("r.yaml", "--run", "out"),
}
LONG = [(option, "1000000000") for option in ("--tokens", "--short-tokens", "--seconds")]
LONG += [("--workload", "")]
"""No mistakes: long runs."""
WRONG = {
    "int": (
        "-1",
        "0",
        "1.5",
        "abc",
        "",
        "9" * 20,
        "1000000000",
        "nan",
        "١",
        "1e3",
        "0x10",
        " 5",
        "9" * 5000,
    ),
    "float": ("-1", "nan", "inf", "-inf", "abc", "", "1e999", "0", "1,5", "1e308", "9" * 5000),
    "str": (
        "",
        "zzz",
        "-1",
        "0",
        "nan",
        "1e999",
        "ck",
        "\0",
        "½",
        "../..",
        "a" * 3000,
        "9" * 20,
        "[b]x[/b]",
        "\udcff",
        "9" * 5000,
    ),
    "Path": ("", "nope/x", "text.txt", "/dev/null", "a\0b", "a" * 300, "/proc/x"),
}


def cases(base: Path) -> Iterator[tuple[Any, ...]]:
    """The command's cheapest words with one option changed."""
    commands: Any = typer.main.get_command(app)
    for name, words in WORDS.items():
        written = {"r.yaml": GOOD, "p.yaml": PRETRAIN}
        recipes = [write(file, yaml.safe_dump(recipe)) for file, recipe in written.items()]
        hints = get_type_hints(commands.commands[name].callback)
        for parameter in commands.commands[name].params:
            if (
                parameter.param_type_name != "option"
                or parameter.name == "help"
                or parameter.is_flag
            ):
                continue
            option, rest = max(parameter.opts, key=len), [*words]
            if option in rest:
                at = rest.index(option)
                del rest[at : at + 2]
            kind = str(hints[parameter.name])
            wrong = next((values for word, values in WRONG.items() if word in kind), WRONG["str"])
            for value in wrong:
                if (option, value) in LONG:
                    continue
                given = (name, *rest, f"{option}={value}")
                yield f"{name} {option}={value[:24]!r} {len(value)}", given, of_run(base), *recipes
        yield f"{name} with an unknown option", (name, *words, "--nope"), of_run(base)
        yield f"{name} with more words", (name, *words, "more", "and more"), of_run(base)
