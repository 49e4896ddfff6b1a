"""Files of a run directory: replaced, edited place by place, of another kind; and paths given for
one.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .case import (
    DEEP,
    NO_FILES,
    RANDOM,
    TRAINING,
    VALUES,
    Change,
    cpu,
    edit,
    in_place_of,
    places,
    put,
    score,
    search,
)
from .run_edits import SCORES, SELECTIONS, changed_scores

DATA = ("--run", "run", "--data", "text.txt")
COMMANDS = {
    "search": search("--budget", "90%"),
    "time": search("--budget", "1.1x@b1,p8,o1"),
    "prune": cpu("prune", "--run", "run"),
    "report": ("report", "--run", "run"),
    "eval": cpu("eval", *DATA, "--length", 64),
    "export": ("export", "--run", "run"),
    "distill": cpu(
        "distill",
        *DATA,
        "--validation",
        "text.txt",
        *TRAINING,
        "--short-tokens",
        128,
        "--learning-rate",
        1e-3,
    ),
    "adapt": cpu("adapt", "ck", *DATA, *TRAINING, "--rank", 2),
}
TEXTS = {
    "empty": "",
    "cut": '{"schema": 2, ',
    "list": "[]",
    "null": "null",
    "number": "3",
    "table": "{}",
    "not text": b"\xff\xfe",
    "deep": DEEP,
    "random": RANDOM,
    "digits": '{"schema": ' + "9" * 5000 + "}",
    "half a character": '{"schema": "\\ud800"}',
}
READ = {
    "run.json": ("search", "prune", "report", "eval", "export", "adapt"),
    "search.json": ("prune", "report", "eval"),
    "eval.json": ("report",),
    "latency.json": ("time",),
    "commands.json": ("report", "search"),
    "scores.safetensors": ("search", "report"),
    "distill/long/log.csv": ("report",),
    "tokens/*": ("search",),
    "student/config.json": ("eval", "report", "export"),
    "candidates/c001/config.json": ("prune", "eval"),
    "tasks.json": ("report",),
    "search.partial.json": ("search",),
    "distill/long/identity": ("distill",),
    "adapt/log.csv": ("adapt",),
    "adapter/adapter.safetensors": ("adapt",),
}
EDITED = {
    "run.json": ("search", "report"),
    "search.json": ("prune", "report"),
    "eval.json": ("report",),
    "latency.json": ("time",),
    "commands.json": ("report",),
}
INSTEAD = ("missing", "null", "negative", "list", "huge", "nan")
ENTRIES = (
    "run.json",
    "scores.safetensors",
    "search.json",
    "commands.json",
    "latency.json",
    "eval.json",
    "tokens",
    "candidates",
    "candidates/c001",
    "student",
    "report.html",
    "distill",
    "adapter",
)
again = edit("run/run.json", lambda found: found["stages"].pop("prune") and None)
"""Makes prune cut anew."""


def of_run(base: Path) -> Change:
    """Put the finished run directory there."""
    return lambda folder: shutil.copytree(base / "run", folder / "run")


def cases(base: Path) -> Iterator[tuple[Any, ...]]:
    """A command that reads a damaged file of a finished run."""

    def case(name: str, command: str, *changes: Change) -> tuple[Any, ...]:
        fresh = [again] if command == "prune" and "run.json" not in name else []
        return (f"{name}, {command}", COMMANDS[command], of_run(base), *fresh, *changes)

    for file, commands in READ.items():
        for name, text in TEXTS.items():
            for command in commands:
                yield case(f"{file} is {name}", command, _replaced(file, text))
    for file, commands in EDITED.items():
        value = json.loads((base / "run" / file).read_text())
        for place in places(value, first=3):
            for name in INSTEAD:
                for command in commands:
                    change = edit(f"run/{file}", put(place, VALUES[name]))
                    yield case(f"{file}: {'.'.join(map(str, place))} is {name}", command, change)
    for schema in (1, 99, "2", None):
        for file, commands in EDITED.items():
            for command in commands:
                if file != "commands.json":
                    yield case(
                        f"{file} of schema {schema!r}",
                        command,
                        edit(f"run/{file}", put("schema", schema)),
                    )
    for name, how in SELECTIONS.items():
        for command in ("prune", "report", "distill", "eval"):
            yield case(f"search.json: {name}", command, edit("run/search.json", how))
    for name, how in SCORES.items():
        for command in ("search", "report"):
            yield case(f"scores: {name}", command, changed_scores(how))
    for entry in ENTRIES:
        for command in ("search", "prune", "report", "distill"):
            yield case(f"{entry} is of the other kind", command, _other_kind(entry))
    for file in (
        "run.json",
        "scores.safetensors",
        "search.json",
        "eval.json",
        "commands.json",
        "latency.json",
    ):
        for kind in NO_FILES:
            for command in READ[file][:2]:
                yield case(f"{file}: {kind}", command, *in_place_of(f"run/{file}", kind))
    yield case(
        "the parent has moved", "search", edit("run/run.json", put(("parent", "path"), "/nowhere"))
    )
    yield case(
        "the parent is another",
        "search",
        edit("run/run.json", put(("parent", "path"), str(base / "big"))),
    )
    yield "of another parent", score(base / "big", run="run"), of_run(base)
    yield from _paths()


def _paths() -> Iterator[tuple[Any, ...]]:
    kinds = {
        "file": lambda folder: (folder / "run").write_text("x"),
        "dangling link": lambda folder: os.symlink("no/x", folder / "run"),
        "link to itself": lambda folder: os.symlink("run", folder / "run"),
        "pipe": lambda folder: os.mkfifo(folder / "run"),
    }
    for name, make in kinds.items():
        for command in ("search", "report", "prune", "eval"):
            yield f"run is a {name}, {command}", COMMANDS[command], make
        yield f"run is a {name}, score", score("ck", run="run"), make
    yield "run below a file", score("ck", run="text.txt/run")
    for path in (
        "/proc/run",
        "/sys/run",
        "/dev/null/run",
        "/dev/null",
        "a" * 300,
        "a\0b",
        "",
        "\udcff",
    ):
        yield f"run {path[:12]!r}", score("ck", run=path)


def _replaced(pattern: str, text: str | bytes) -> Change:
    def change(folder: Path) -> None:
        found = list((folder / "run").glob(pattern)) or [folder / "run" / pattern]
        for path in found:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def _other_kind(entry: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / "run" / entry
        was_folder = path.is_dir()
        if was_folder:
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        path.write_text("x") if was_folder else path.mkdir()

    return change
