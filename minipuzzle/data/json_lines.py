"""JSON lines: one object a line, and what is wrong with a line that holds none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minipuzzle.data.files import encodable, excerpt, not_utf8, open_data
from minipuzzle.errors import UserError

LONGEST_LINE = 1 << 30
"""Bytes: a longer line is a damaged file, and would fill the memory before it ends."""


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not empty. Raises: UserError as
    ``reading``, and for any other line.
    """
    with open_data(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
            if line.strip():
                yield number, _object(path, number, line)


def text_field(where: str, row: dict[str, Any], name: str, allowed: str) -> str:
    """The string in one field of a row, which stands at ``where`` ("Line 3 of FILE"). Raises:
    UserError where it is none, or cannot be written as UTF-8.
    """
    value = row.get(name)
    if not isinstance(value, str):
        got = (
            f"{name}: {excerpt(json.dumps(value))}"
            if name in row
            else "fields " + excerpt(", ".join(row) or "none")
        )
        raise UserError(
            f'{where} has no text in "{name}".',
            got=got,
            allowed=allowed,
            next="Fix or remove that line; other fields must be renamed.",
        )
    if not encodable(value):
        raise half_a_character(where)
    return value


def half_a_character(where: str) -> UserError:
    """The error of a text that cannot be written as UTF-8."""
    return UserError(
        f"{where} holds half a character.",
        allowed="Unicode text",
        got="a surrogate (\\ud800 to \\udfff) without its pair",
        next="Fix or remove that line.",
    )


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    where = f"Line {number} of {path}"
    if len(line) == LONGEST_LINE:
        raise UserError(
            f"{where} is too long.",
            got=f"over {LONGEST_LINE >> 20:,} MiB",
            allowed="one JSON object a line",
            next="Convert it: it is damaged, or no JSON lines.",
        )
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise not_utf8(path, error, number) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
        why = "brackets too deep" if isinstance(error, RecursionError) else error
        raise UserError(
            f"{where} is not valid JSON.",
            got=f"{why}: {_shown(line)}",
            allowed="one whole JSON object a line",
            next="Fix or remove that line.",
        ) from error
    if not isinstance(row, dict):
        raise UserError(
            f"{where} is not a JSON object.",
            got=_shown(line),
            next="Fix or remove that line.",
            allowed='an object on each line, such as {"text": "..."}',
        )
    return row


def _shown(line: bytes) -> str:
    return excerpt(line[:90].decode(errors="replace"))
