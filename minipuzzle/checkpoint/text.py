"""JSON files of a checkpoint: read in bounded memory, and every way in which they can be broken is
an error that says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minipuzzle.errors import UserError


def read_object(path: Path, limit: int) -> dict[str, Any]:
    """The JSON object in a file of at most ``limit`` bytes.

    Raises: UserError where it cannot be read, is larger, is not UTF-8 or not JSON, or holds
    something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) > limit:
        raise UserError(
            f"{path} is too large to be what its name says.",
            got=f"more than {limit:,} bytes",
            allowed=f"at most {limit:,} bytes",
            next="Restore the file.",
        )
    try:
        value = json.loads(data.decode())
    except (
        ValueError,
        RecursionError,
    ) as error:  # not UTF-8, not JSON, a number of 5,000 digits, too deep
        raise UserError(
            f"{path} is not JSON.", got=error, allowed="JSON", next="Restore the file."
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path} is not a JSON object.",
            got=type(value).__name__,
            allowed="an object",
            next="Restore the file.",
        )
    return value


def unreadable(path: Path, error: OSError) -> UserError:
    """The four-part form of a file that the system does not let us read."""
    return UserError(
        f"{path} cannot be read.",
        got=error.strerror or error,
        allowed="a file that you may read",
        next="Look at its permissions (ls -l), or name another checkpoint.",
    )
