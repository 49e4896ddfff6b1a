"""The CSV of a training run. Rows after the last saved step are dropped on resume, so no step
appears twice.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from minipuzzle.artifacts import write_atomic
from minipuzzle.records import load_log

LOG = "log.csv"
FIELDS = (
    "step",
    "tokens",
    "loss",
    "teacher_entropy",
    "learning_rate",
    "grad_norm",
    "seconds",
    "skipped",
)
WHOLE = ("step", "tokens", "skipped")


class TrainingLog:
    """Rows of FIELDS and ``more`` in memory; ``write`` puts them all in the file."""

    def __init__(self, path: Path, more: Sequence[str] = ()) -> None:
        self.path, self.fields = path, (*FIELDS, *more)
        self.rows: list[dict[str, float]] = []

    @staticmethod
    def resume(path: Path, *, step: int, more: Sequence[str] = ()) -> TrainingLog:
        """The log up to and including ``step`` (0: an empty one)."""
        log = TrainingLog(path, more)
        if step and path.exists():
            rows = [
                {field: row.get(field, math.nan) for field in log.fields} for row in load_log(path)
            ]
            log.rows = [row for row in rows if row["step"] <= step]
        return log

    def add(self, **row: float) -> None:
        """Append one row."""
        self.rows.append(row)

    def write(self) -> None:
        """Replace the file by the rows so far."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.fields)
        writer.writeheader()
        for row in self.rows:
            writer.writerow(
                {f: int(row[f]) if f in WHOLE else f"{row[f]:.6g}" for f in self.fields}
            )
        write_atomic(self.path, text.getvalue().encode())


def mean(values: Sequence[float]) -> float:
    """Of the finite ones; NaN where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
