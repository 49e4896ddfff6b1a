"""The JSON files of a tokenizer, and errors that name the file or the field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minipuzzle.data.files import encodable
from minipuzzle.errors import UserError


@contextmanager
def reported(file: Path) -> Iterator[None]:
    """Where ``tokenizers`` works, whose errors have no type: they become a UserError about
    ``file``.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"{file} cannot be read.",
            got=error,
            allowed="a tokenizer of Hugging Face tokenizers",
            next="Copy the tokenizer's files again from the model.",
        ) from error


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises: UserError where it has none."""
    try:
        value = json.loads(file.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(file, error) from error
    if not isinstance(value, dict):
        raise _unreadable(file, f"{type(value).__name__}: {str(value)[:60]}")
    return value


def _unreadable(file: Path, got: object) -> UserError:
    return UserError(
        f"{file} cannot be read.",
        got=got,
        allowed="a JSON object",
        next="Copy it again from the model.",
    )


def read_optional(file: Path) -> dict[str, Any]:
    """``read_object``, empty where there is no such file."""
    return read_object(file) if file.is_file() else {}


def token_text(value: Any) -> str | None:
    """The text of a token that is a string or an object with a "content", else None."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and encodable(text) else None


def meaningless(folder: Path, key: str, value: Any, allowed: str) -> UserError:
    """The error for a field that is none of ``allowed``."""
    return UserError(
        f"{key} in the tokenizer's files has no meaning.",
        got=f"{folder}: {json.dumps(value)[:60]}",
        allowed=allowed,
        next="Copy the tokenizer's files again from the model.",
    )
