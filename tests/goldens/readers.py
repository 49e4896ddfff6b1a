"""Where goldens touch minipuzzle: its command line, what it prints and the files of a run.

What is kept in ``text/`` is said in words that stay ("block 03 / FFN width"). Where a refactoring
renames a key, a tensor or a function, it is changed here (or, of checkpoints, in ``files``), and
the golden text stays as it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import values
from .values import Line

# An axis or kind as minipuzzle's files name it -> as goldens do.
AXES = {
    "intermediate": "FFN width",
    "heads": "Mamba heads",
    "head_dim": "Mamba head channels",
    "state": "Mamba states",
    "head_channels": "Mamba channels",
    "state_channels": "Mamba state channels",
    "q_heads": "query heads",
    "kv_heads": "KV heads",
    "hidden": "hidden size",
    "attention": "attention blocks",
    "mlp": "FFN blocks",
    "mamba": "Mamba blocks",
}
# A key of JSON output as it is now -> as it was when the goldens were written.
RENAMED = {"screening_validation_loss": "heat_validation_loss", "compute copies": "gathered"}
# Paths, times, dates, speeds, versions, and what ``identity`` keeps in a place of its own.
LEFT_OUT = {
    *("path", "file", "report", "data", "note"),
    *("seconds", "finished", "date", "tokens_per_second"),
    *("device", "torch", "kernels", "schema"),
    *("fingerprint", "parent", "key", "search"),
}
# Of these only the number is kept: they may be worded otherwise.
SENTENCES = {"not_pruned"}
# The title of what inspect prints: a path.
TITLE = r"config|^/"


# --- the command line ---


def command(line: str) -> str:
    """What ``python -m minipuzzle LINE`` prints on standard output; it must exit with 0."""
    before, printed, told = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["minipuzzle", *shlex.split(line)]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
            runpy.run_module("minipuzzle", run_name="__main__")
    except SystemExit as end:
        if end.code not in (0, None):
            raise RuntimeError(f"{line}: exit {end.code}\n{told.getvalue()}") from end
    finally:
        sys.argv = before
    return printed.getvalue()


def answer(line: str) -> Any:
    """The JSON that a command prints with --json."""
    return json.loads(command(f"{line} --json"))


def facts(prefix: str, value: Any) -> Iterator[Line]:
    """The lines of a JSON value, without what is left out, under the names of then."""
    return values.flat(prefix, cleaned(value))


def row(value: Any) -> str:
    """The same in one line."""
    return values.row(cleaned(value))


def cleaned(value: Any) -> Any:
    """JSON without what is left out, under the names of then; of sentences only how many there are.

    Nothing is said of a kind that a model has no block of: there will be more kinds.
    """
    if isinstance(value, list):
        return [cleaned(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    then = {RENAMED.get(key, key): inner for key, inner in value.items()}
    kept = {key: inner for key, inner in then.items() if key not in LEFT_OUT}
    kept = {key: len(inner) if key in SENTENCES else inner for key, inner in kept.items()}
    return {
        AXES.get(key, key): cleaned(inner)
        for key, inner in kept.items()
        if not (key in AXES and inner in (0, [0], [0, 0], []))
    }


# --- what commands answer with ---


def scores(prefix: str, run: Path) -> Iterator[Line]:
    """The scores of a run: each block's, each width's by block, curves, and what with."""
    from safetensors.numpy import load

    data = (run / "scores.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["minipuzzle"])
    yield from score_arrays(prefix, load(data))
    yield f"{prefix} / measured with", row(about["meta"])


def scores_briefly(prefix: str, run: Path) -> Iterator[Line]:
    """The same with one hash for all that is scored within blocks."""
    rows = list(scores(prefix, run))
    yield from rows[:1]
    yield f"{prefix} / all", f"{len(rows) - 1} rows {values.digest(repr(rows[:-1]).encode())}"


def score_arrays(prefix: str, tensors: dict[str, np.ndarray]) -> Iterator[Line]:
    """Arrays by their names in scores.safetensors."""
    named: dict[tuple[int, int, str], Any] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if name in ("blocks", "layers"):
            named[0, 0, f"each of the {name} removed"] = tensor
        elif name == "hidden":
            named[0, 1, "hidden channels"] = tensor
        elif len(parts) == 3:
            named[1, int(parts[1]), AXES[parts[2]]] = tensor
        else:
            assert parts[2] == "curve", name
            if parts[4] == "sizes":
                named[1, int(parts[1]), f"narrowed {AXES[parts[3]]}"] = name
    for (in_block, number, what), tensor in sorted(named.items(), key=lambda item: item[0]):
        where = f"block {number:02} / " if in_block else ""
        if isinstance(tensor, str):
            damage = zip(tensors[tensor], tensors[tensor.replace("sizes", "errors")], strict=True)
            yield (
                f"{prefix} / {where}{what}",
                ", ".join(f"to {size} {values.plain(error)}" for size, error in damage),
            )
        elif tensor.size <= values.WHOLE and tensor.ndim == 1:
            yield f"{prefix} / {where}{what}", " ".join(map(values.plain, tensor))
        else:
            yield f"{prefix} / {where}{what}", values.array(tensor)


def taylor(
    prefix: str, checkpoint: Path, text: Path, length: int, samples: int, run: Path
) -> Iterator[Line]:
    """Taylor's scores, which no command makes."""
    import minipuzzle as mp
    from minipuzzle.importance import taylor_scores

    job = mp.load(
        checkpoint, run=run, data=mp.Data(calibration=str(text), length=length), device="cpu"
    )
    with contextlib.redirect_stderr(io.StringIO()):
        blocks = job.text("calibration")
    found = taylor_scores(job.load(job.parent), blocks, samples, batch=2)
    found.save(run / "scores.safetensors")
    yield from scores(prefix, run)


def search(prefix: str, found: dict[str, Any]) -> Iterator[Line]:
    """Budget, bounds, funnel, each evaluated candidate, and the selections that go on."""
    shown = {"funnel", "candidates", "selections", "not_pruned", "parent", "solver", "front"}
    yield f"{prefix} / space", row({key: value for key, value in found.items() if key not in shown})
    yield f"{prefix} / sentences on what is not pruned", str(len(found["not_pruned"]))
    for number, step in enumerate(found["funnel"]):
        yield f"{prefix} / funnel / {number}", f"{step['entered']} -> {step['left']}"
    for number, candidate in enumerate(found["candidates"]):
        yield f"{prefix} / candidate {number}", row(candidate)
    if "front" in found:
        yield (
            f"{prefix} / solver",
            row({"solver": found["solver"], "costs": found["front"]["names"]}),
        )
        for number, point in enumerate(found["front"]["points"]):
            yield f"{prefix} / front / {number}", row(point)
    for name, kept in found["selections"].items():
        yield from selection(f"{prefix} / selection {name}", kept)


def selection(prefix: str, kept: dict[str, Any]) -> Iterator[Line]:
    """Every kept index of a selection of search.json."""
    if kept["hidden"] is not None:
        yield f"{prefix} / hidden size", values.indices(kept["hidden"])
    yield (
        f"{prefix} / dropped",
        " ".join(str(i) for i, block in enumerate(kept["blocks"]) if block is None),
    )
    for number, block in enumerate(kept["blocks"]):
        for axis, chosen in sorted((block or {}).items()):
            yield f"{prefix} / block {number:02} / {AXES[axis]}", values.indices(chosen)


def plan(prefix: str, found: dict[str, Any]) -> Iterator[Line]:
    """``search`` of a config.json alone: what fits, and a hash of all maximal shapes."""
    yield from facts(prefix, {k: v for k, v in found.items() if k not in ("maximal", "not_pruned")})
    rows = list(facts("row", found["maximal"]))
    yield (
        f"{prefix} / maximal shapes",
        f"{len(found['maximal'])}, {values.digest(repr(rows).encode())}",
    )
    for number, shape in enumerate(found["maximal"][:3]):
        yield f"{prefix} / maximal / {number}", row(shape)


def kept(found: dict[str, Any]) -> list[str]:
    """The names of the candidates that go on, of ``search --json``."""
    return list(found["top"])


def evaluation(prefix: str, found: dict[str, Any]) -> Iterator[Line]:
    """``eval --json``: teacher, pruned and student, then predicted beside measured costs."""
    for model in found["rows"]:
        whole, domains = {**model}, model["domains"]
        del whole["domains"]
        yield f"{prefix} / {model['name']}", row(whole)
        for name, part in domains.items():
            yield f"{prefix} / {model['name']} / {name}", row(part)
    yield f"{prefix} / tokens", values.plain(found["tokens"])
    for number, cost in enumerate(found["costs"]):
        yield (
            f"{prefix} / cost {number}",
            f"{cost['predicted']!r} {cost['measured']!r} {cost['unit']}".strip(),
        )


def engines(prefix: str, found: dict[str, Any]) -> Iterator[Line]:
    """``export --json``: which engine loads the checkpoint."""
    yield (
        prefix,
        ", ".join(f"{verdict['engine']} {verdict['loads']}" for verdict in found["engines"]),
    )


def profile(prefix: str, folder: Path, run: Path) -> Iterator[Line]:
    """``profile``: what was timed, each only once and not in how long."""
    from minipuzzle import timing

    timing.SECONDS["cpu"], timing.LEAST_STEPS["cpu"], timing.WARM_UP["cpu"] = 0.0, 2, 0
    meta = answer(f"profile {folder} --run {run} --workload b1,p8,o2 --widths 2 --device cpu")
    times = _leaves(json.loads((run / "latency.json").read_text()))
    yield prefix, row({"dtype": meta["dtype"], "times": times})


def _leaves(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_leaves, inner)) if inner or isinstance(value, dict | list) else 1


def distill_plan(prefix: str, found: dict[str, Any]) -> Iterator[Line]:
    """``distill --plan --json``: a row for each number of GPUs, then what holds for all."""
    for planned in found["rows"]:
        yield f"{prefix} / {planned['gpus']} GPUs", row({k: planned[k] for k in ("bytes", "days")})
    yield from facts(prefix, {key: value for key, value in found.items() if key != "rows"})


def bench(prefix: str, found: dict[str, Any]) -> Iterator[Line]:
    """``bench --json`` without its times: what was run, and the predicted memory of each model."""
    whole = ("dtype", "weights", "state_dtype", "batch", "prompt", "output")
    yield prefix, row({key: found[key] for key in whole})
    for model in found["rows"]:
        kept = ("name", "parameters", "batch", "predicted", "predicted_bytes")
        yield f"{prefix} / {model['name']}", row({key: model[key] for key in kept})


def parameters(folder: Path) -> int:
    """The parameters of a model, by ``inspect --json``."""
    return int(answer(f"inspect {folder}")["parameters"])
