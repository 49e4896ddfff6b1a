"""A case: a command line, and what is done to its files before it."""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Change = Callable[[Path], Any]
"""Done to the folder that a command runs in."""
MISSING = object()
VALUES = {
    "missing": MISSING,
    "null": None,
    "text": "abc",
    "negative": -1,
    "zero": 0,
    "large": 10**12,
    "huge": 10**20,
    "fraction": 1.5,
    "list": [1, 2],
    "table": {"a": 1},
    "nan": float("nan"),
    "infinite": float("inf"),
    "true": True,
    "digits": "8",
    "empty": "",
    "three": 3,
}
"""What takes the place of a value in JSON."""
DEEP = "[" * 100_000
RANDOM = random.Random(0).randbytes(1000)


@dataclass(frozen=True)
class Case:
    """``changes`` are made in a folder with a checkpoint ck and text.txt; then ``words`` are given
    there.
    """

    group: str
    name: str
    words: tuple[Any, ...]
    changes: tuple[Change, ...] = ()

    @property
    def key(self) -> str:
        """Its name among all."""
        return f"{self.group}: {self.name}"


def cpu(*words: Any) -> tuple[Any, ...]:
    """A command on the CPU."""
    return (*words, "--device", "cpu")


def score(*words: Any, run: str = "out", data: str = "text.txt") -> tuple[Any, ...]:
    """The cheapest scoring."""
    return cpu(
        "score",
        *words,
        "--samples",
        1,
        "--block-samples",
        1,
        "--length",
        32,
        "--no-curves",
        "--data",
        data,
        "--run",
        run,
    )


def search(*words: Any) -> tuple[Any, ...]:
    """The cheapest search, without a budget."""
    return cpu(
        "search",
        "--run",
        "run",
        "--data",
        "text.txt",
        "--multiple",
        8,
        "--candidates",
        2,
        "--validation-blocks",
        2,
        "--length",
        64,
        *words,
    )


TRAINING = ("--tokens", 256, "--length", 64, "--batch", 1)


def write(path: str, data: Any) -> Change:
    """A file with this text, these bytes, or this value as JSON."""
    data = data if isinstance(data, str | bytes) else json.dumps(data)

    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data if isinstance(data, bytes) else data.encode())

    return change


def edit(path: str, how: Callable[[Any], Any]) -> Change:
    """JSON, changed in place or for what ``how`` returns."""

    def change(folder: Path) -> None:
        value = json.loads((folder / path).read_text())
        new = how(value)
        (folder / path).write_text(json.dumps(value if new is None else new))

    return change


def put(where: tuple[Any, ...] | str, value: Any) -> Callable[[Any], None]:
    """An edit that puts a value at a place, or takes it away (MISSING)."""
    *way, last = (where,) if isinstance(where, str) else where

    def how(inside: Any) -> None:
        for key in way:
            inside = inside[key]
        if value is MISSING:
            del inside[last]
        else:
            inside[last] = value

    return how


def header(path: str, how: Callable[[dict[str, Any], bytes], Any]) -> Change:
    """A safetensors file: ``how`` changes its header in place, or returns (header or its text,
    data) or the file.
    """

    def change(folder: Path) -> None:
        whole = (folder / path).read_bytes()
        end = 8 + struct.unpack("<Q", whole[:8])[0]
        values = json.loads(whole[8:end])
        new = how(values, whole[end:])
        if isinstance(new, bytes):
            (folder / path).write_bytes(new)
            return
        values, data = new if isinstance(new, tuple) else (values, whole[end:])
        text = (values if isinstance(values, str) else json.dumps(values)).encode()
        (folder / path).write_bytes(struct.pack("<Q", len(text)) + text + data)

    return change


def remove(path: str) -> Change:
    """Take a file or folder away."""
    return lambda folder: (
        shutil.rmtree(folder / path) if (folder / path).is_dir() else os.remove(folder / path)
    )


def cut(path: str, count: int) -> Change:
    """Take the last bytes of a file away."""
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[:-count])


def in_place_of(path: str, kind: str) -> tuple[Change, ...]:
    """Something that is no file where a file was."""
    make = {
        "folder": lambda folder: (folder / path).mkdir(),
        "pipe": lambda folder: os.mkfifo(folder / path),
        "dangling link": lambda folder: os.symlink("nowhere", folder / path),
        "link to itself": lambda folder: os.symlink(Path(path).name, folder / path),
    }[kind]
    return remove(path), make


NO_FILES = ("folder", "pipe", "dangling link", "link to itself")


def places(value: Any, at: tuple[Any, ...] = (), first: int = 8) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside; of lists and of tables in tables only to the ``first`` few."""
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))[:1]
    for key, inner in pairs if not at else pairs[:first]:
        yield (*at, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*at, key), first)
