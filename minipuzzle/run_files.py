"""The one loader of each JSON file of a run directory. No torch.

A file of before its schema had a number is of schema 1.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from minipuzzle.artifacts import plain_json, read_json, read_text
from minipuzzle.checked import require
from minipuzzle.errors import UserError
from minipuzzle.run_shapes import CommandsFile, LegFile, PartialPrune, PartialSearch, TrainingFile

COMMANDS_SCHEMA = 1
PARTIAL_PRUNE_SCHEMA = 1
TRAINING_SCHEMA = 1
LEG_SCHEMA = 1


def load_commands(path: Path) -> list[dict[str, Any]]:
    """The rows of commands.json, none where it is not there. Raises: UserError where it is
    damaged.
    """
    if not path.exists():
        return []
    again = "Delete it: only the report's list of commands is lost."
    if isinstance(found := read_json(path, next=again), list):  # as it was before 2026-11-29
        found = {"schema": COMMANDS_SCHEMA, "commands": found}
    rows: list[dict[str, Any]] = _checked(found, path, CommandsFile, COMMANDS_SCHEMA, again)[
        "commands"
    ]
    return rows


def load_partial_search(path: Path) -> dict[str, Any]:
    """A file of search.partial. Raises: UserError where it is damaged."""
    return read_json(
        path, PartialSearch, next="Delete it: the search measures its candidates again."
    )


def load_partial_prune(path: Path) -> dict[str, Any]:
    """prune.partial.json. Raises: UserError where it is damaged."""
    return _load(
        path, PartialPrune, PARTIAL_PRUNE_SCHEMA, "Delete it: prune cuts its candidates again."
    )


def load_training(path: Path) -> dict[str, Any]:
    """identity.json of a folder of training states. Raises: UserError where it is damaged."""
    again = (
        "Move that folder away: its states are of no known training; the command then starts anew."
    )
    return _load(path, TrainingFile, TRAINING_SCHEMA, again)


def load_leg(path: Path) -> float | None:
    """The validation loss in a leg's result.json. Raises: UserError where it is damaged."""
    again = "Move that folder away: its run is then done again."
    loss: float | None = _load(path, LegFile, LEG_SCHEMA, again)["validation_loss"]
    return loss


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


def check_measured(value: Any, shape: Any) -> Any:
    """What is about to be written, where its loader will read it. Raises: UserError for numbers
    that are not finite.
    """
    require(
        json.loads(json.dumps(value, default=plain_json)),
        shape,
        what="What was measured",
        next="Check the model: its weights give numbers that are not finite.",
    )
    return value


def _load(path: Path, shape: Any, schema: int, again: str) -> dict[str, Any]:
    return _checked(read_json(path, next=again), path, shape, schema, again)


def _checked(found: Any, path: Path, shape: Any, schema: int, again: str) -> dict[str, Any]:
    require(found, dict[str, Any], what=str(path), next=again)
    if found.get("schema", 1) != schema:
        raise UserError(
            f"{path} has another schema.",
            got=found.get("schema", "none"),
            allowed=schema,
            next=again,
        )
    return require(found, shape, what=str(path), next=again)
