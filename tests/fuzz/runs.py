"""Files of a run directory: replaced, edited place by place, of another kind; and paths given for
one.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

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
            yield case(f"scores: {name}", command, _scores(how))
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


def _selection(found: dict[str, Any]) -> dict[str, Any]:
    return found["selections"][found["top"][0]]


def _cut_axis(how: Any) -> Any:
    """An edit of the first axis that the first selection narrows, or of a made-up one."""

    def change(found: dict[str, Any]) -> None:
        blocks = _selection(found)["blocks"]
        block = next((b for b in blocks if b), next(b for b in blocks if b is not None))
        axis = next(iter(block), "intermediate")
        block[axis] = how(block.get(axis) or [0, 1, 2, 3])

    return change


def _top(name: str) -> Any:
    def change(found: dict[str, Any]) -> None:
        found["selections"][name] = _selection(found)
        found["candidates"][0]["name"] = name
        found["top"] = [name]

    return change


SELECTIONS = {
    "unknown top": put("top", ["zzz"]),
    "no top": put("top", []),
    "top is twice": lambda f: f.update(top=f["top"][:1] * 2),
    **{
        f"top {name!r}": _top(name)
        for name in (
            "../../evil",
            "/tmp/evil",
            "..",
            ".",
            "a/b",
            "a\0b",
            "$x_{",
            "<b>",
            "a" * 400,
            "ü",
        )
    },
    "far": _cut_axis(lambda kept: [10**6]),
    "negative": _cut_axis(lambda kept: [-1, *kept[1:]]),
    "twice": _cut_axis(lambda kept: kept[:1] * len(kept)),
    "backwards": _cut_axis(lambda kept: kept[::-1]),
    "none kept": _cut_axis(lambda kept: []),
    "texts": _cut_axis(lambda kept: ["a"]),
    "huge": _cut_axis(lambda kept: [10**30]),
    "a block less": lambda f: _selection(f)["blocks"].pop() and None,
    "no block": lambda f: _selection(f).update(blocks=[None] * 7),
    "unknown axis": lambda f: _selection(f)["blocks"].__setitem__(0, {"depth": [0]}),
    "hidden far": lambda f: _selection(f).update(hidden=[0, 10**6]),
    "hidden text": lambda f: _selection(f).update(hidden="x"),
}


def _about(how: Any) -> Any:
    """Scores whose header says something else."""

    def change(tensors: dict[str, Any], about: dict[str, str]) -> Any:
        return tensors, {"minipuzzle": json.dumps(how(json.loads(about["minipuzzle"])))}

    return change


SCORES = {
    "nan": lambda t, m: ({n: a * np.nan if a.dtype == np.float64 else a for n, a in t.items()}, m),
    "short": lambda t, m: ({n: a[:-1].copy() for n, a in t.items()}, m),
    "no header": lambda t, m: (t, {}),
    "bad header": lambda t, m: (t, {"minipuzzle": "{"}),
    "nothing": lambda t, m: ({"x": np.zeros(1)}, m),
    "float32": lambda t, m: ({n: a.astype(np.float32) for n, a in t.items()}, m),
    "negated": lambda t, m: ({n: -a for n, a in t.items()}, m),
    "bad name": lambda t, m: ({**t, "blocks.x.intermediate": np.zeros(3)}, m),
    "zero": lambda t, m: ({n: a * 0 for n, a in t.items()}, m),
    "no blocks": lambda t, m: ({n: a for n, a in t.items() if n != "blocks"}, m),
    "huge": lambda t, m: ({n: a * 1e300 for n, a in t.items()}, m),
    "block 99": lambda t, m: ({**t, "blocks.99.intermediate": np.zeros(3)}, m),
    "tiny": lambda t, m: ({n: a * 1e-300 for n, a in t.items()}, m),
    "curve": lambda t, m: ({**t, "blocks.0.curve": np.zeros(3)}, m),
    "fewer": lambda t, m: ({"blocks": t["blocks"]}, m),
    "no widths": lambda t, m: ({n: a for n, a in t.items() if "intermediate" not in n}, m),
    "wrong kind": lambda t, m: ({**t, "blocks.0.intermediate": np.ones(64)}, m),
    "longer": lambda t, m: ({n: np.concatenate([a, a]) for n, a in t.items()}, m),
    "of another parent": _about(lambda a: {**a, "meta": {"parent": "x"}}),
    "schema 1": _about(lambda a: {**a, "schema": 1}),
    "list of facts": _about(lambda a: {**a, "meta": []}),
    "list": _about(lambda a: []),
    "facts of lists": _about(lambda a: {**a, "meta": {n: [n] for n in a["meta"]}}),
}


def _scores(how: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "run/scores.safetensors"
        with safe_open(path, "np") as file:
            about = dict(file.metadata())
        tensors, about = how(load_file(path), about)
        save_file(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()},
            path,
            metadata=about,
        )

    return change
