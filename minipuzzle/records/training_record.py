"""What lies beside training states: whose they are, how a leg ended, and the log."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from minipuzzle.artifacts import read_text
from minipuzzle.checked import Count
from minipuzzle.errors import UserError
from minipuzzle.records.base import Record


@dataclass(frozen=True, kw_only=True)
class TrainingRecord(Record):
    """identity.json of a folder of training states: what they fit to (``identity``) and the stage's
    inputs (``key``). ``replaced``: an older result was set aside.
    """

    schema: ClassVar[int] = 1
    again: ClassVar[str] = (
        "Move that folder away: no known training wrote it; the command then starts anew."
    )
    identity: str
    key: str
    finished: bool
    replaced: bool


@dataclass(frozen=True, kw_only=True)
class LegRecord(Record):
    """result.json of a leg: its validation loss in nats a token, None where training broke down;
    the average of ``tasks`` where they were asked.
    """

    schema: ClassVar[int] = 1
    again: ClassVar[str] = "Move that folder away: its run is then done again."
    validation_loss: float | None
    tasks: float | None = None


@dataclass(frozen=True, kw_only=True)
class ExpertLoadRecord:
    """How evenly a router spreads tokens: the most tokens of an expert over their mean, and how
    many experts had none.
    """

    max_over_mean: float
    unused: Count


def load_log(path: Path) -> list[dict[str, float]]:
    """The rows of a training's log.csv, cells that are empty left out. Raises: UserError where it
    is damaged.
    """
    again = "Delete it: only the curve of that training is lost."
    try:
        rows = [
            {key: float(cell) for key, cell in row.items() if cell}
            for row in csv.DictReader(io.StringIO(read_text(path, next=again)))
        ]
    except (csv.Error, ValueError, TypeError, AttributeError) as error:  # cells beyond the header
        raise UserError(
            f"{path} is no training log.", got=error, allowed="numbers under a header", next=again
        ) from error
    if any("tokens" not in row or "loss" not in row for row in rows):
        raise UserError(
            f"{path} is no training log.",
            got="a row without tokens or loss",
            allowed="both",
            next=again,
        )
    return rows
