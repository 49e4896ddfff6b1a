"""Names and texts of others as Markdown that shows them, and command lines without this machine's
paths.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import is_dataclass
from pathlib import PurePath
from typing import Any

from minipuzzle.checked import table

_SPECIAL = re.compile(r"([\\`*\[\]<>|$~&])|(?<![A-Za-z0-9])(_)|(_)(?![A-Za-z0-9])")
_RATE = re.compile(r"tok/s(@|$)", re.IGNORECASE)


def markdown(value: Any) -> Any:
    """A text as one line of Markdown in which nothing is markup or HTML; in lists, tables and
    dataclasses too. Raises: TypeError for what might hold a text unseen.
    """
    if is_dataclass(value):
        value = table(value)
    if isinstance(value, dict):
        return {key: markdown(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [markdown(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    if not isinstance(value, str):
        raise TypeError(f"cannot escape {type(value).__name__}")
    return _SPECIAL.sub(lambda found: "\\" + found[0], " ".join(value.split()))


def published(command: str) -> str:
    """A recorded command line for others to read: one line, no back-ticks, of every path its last
    part.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # an open quote: no command of ours
        return ""
    shown = (re.sub(r"[`\x00-\x1f\x7f]", " ", _without_folders(word)) for word in words)
    return shlex.join(shown)


def _without_folders(word: str) -> str:
    option, given, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if "/" not in value or _RATE.search(value):
        return word
    return f"{option}{given}{PurePath(value).name or '.'}"
