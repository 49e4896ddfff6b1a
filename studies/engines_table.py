"""The tables of docs/results/serving.md, and the rows of export/ran.json, from what
docs/results/serving.json.xz says of vLLM and mlx-lm (llama.cpp's are those of tests).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

WHERE = "docs/results/serving.json.xz"
OWN = ("teacher", "uniform", "per-block")
LABELS = {"vllm": "vLLM", "mlx": "mlx", "llama-cpp": "llama.cpp"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A checkpoint in an engine: how many of ``steps`` greedy tokens were ``equal``, the largest
    difference of ``log_p`` and the closest ``margin`` [nats]; or the ``error``.
    """

    engine: str
    checkpoint: str
    family: str
    experts: list[str] | None
    format: str | None
    dtype: str
    date: str
    steps: int
    version: str = ""
    equal: int | None = None
    log_p: float | None = None
    margin: float | None = None
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a result of."""
        return self.engine, self.checkpoint, self.dtype

    @property
    def ran(self) -> bool:
        """Whether `export` may say "ran": every token equal, in FP32."""
        return self.equal == self.steps and self.dtype == "float32" and self.engine != "llama-cpp"


def tables(rows: list[Row]) -> str:
    """Those of the page, one after the other."""
    whole = [row for row in rows if row.format is None]
    return "\n\n".join(map("\n".join, (_own(whole), _families(whole), _quantised(rows))))


def _own(rows: list[Row]) -> Iterator[str]:
    """The teacher and its students: engines and dtypes down, checkpoints across."""
    found = {row.key: row for row in rows}
    for engine, dtype in dict.fromkeys((r.engine, r.dtype) for r in rows if r.checkpoint in OWN):
        cells = [_cell(found.get((engine, name, dtype))) for name in OWN]
        yield f"| {LABELS[engine]}, {dtype} | " + " | ".join(cells) + " |"


def _families(rows: list[Row]) -> Iterator[str]:
    """What ran and what did not, an engine a line."""
    tiny = [row for row in rows if row.checkpoint not in OWN]
    for engine, label in LABELS.items():
        own = [row for row in tiny if row.engine == engine]
        good = [row.checkpoint for row in own if row.equal == row.steps]
        bad = [
            f"{r.checkpoint} ({_cell(r)})"
            for r in own
            if r.equal != r.steps and "cannot be written as GGUF" not in (r.error or "")
        ]
        yield f"| {label} | {'; '.join(good)} | {'; '.join(bad)} |"


def _quantised(rows: list[Row]) -> Iterator[str]:
    """A checkpoint a line."""
    coded = [row for row in rows if row.format is not None]
    for name in dict.fromkeys(row.checkpoint for row in coded):
        cells = [_cell(row) for row in coded if row.checkpoint == name]
        yield f"| {name} | " + " | ".join(cells) + " |"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.error is not None:
        return row.error[:100]
    return f"{row.equal} of {row.steps}, {row.log_p:.0e}"


def ran_rows(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows of export/ran.json: one a form that ran, of all its checkpoints."""

    def form(row: Row) -> tuple[str, str, str, str]:
        return row.engine, row.family, str(row.experts), str(row.format)

    found = []
    for _, group in groupby(sorted((r for r in rows if r.ran), key=form), form):
        own = list(group)
        last, off = max(own, key=lambda r: r.date), max(row.log_p or 0 for row in own)
        at = "FP32" if last.format is None else f"{last.format}, as transformers reads it"
        found.append(
            {
                "family": last.family,
                "engine": last.engine,
                "experts": last.experts,
                "format": last.format,
                "version": last.version,
                "date": last.date,
                "what": f"{last.steps} greedy tokens equal, log p within {off:.0e} at {at}",
                "where": WHERE,
            }
        )
    return found
