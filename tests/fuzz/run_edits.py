"""Edits of the selections in search.json, and of the tensors of a scores file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from .case import Change, put


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


def changed_scores(how: Any) -> Change:
    """Tensors and header of the scores file, changed."""

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
