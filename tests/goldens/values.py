"""How a golden is written: one line a fact, "key = value", every float with all of its bits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

SHOWN = 1
WHOLE = 16
"""Arrays up to this many values are written out, longer ones as a hash and their first values."""
NUMBER = re.compile(r"(?<![\w.-])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
SPEED = re.compile(r"[\d,.]+ +[\d.]+x")
"""Tokens a second and the ratio to the teacher's, as eval prints them."""

Line = tuple[str, str]


def plain(value: Any) -> str:
    """A number, text or None; floats as repr, which keeps every bit."""
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if not isinstance(value, float) else repr(value)


def array(value: Any) -> str:
    """Shape, dtype, SHA-256 of the bytes and first values; short arrays whole."""
    made = np.ascontiguousarray(value)
    flat = [plain(v) for v in made.reshape(-1)[: made.size if made.size <= WHOLE else SHOWN]]
    about = f"{made.dtype} {'x'.join(map(str, made.shape))}"
    if made.size <= WHOLE:
        return f"{about} {' '.join(flat)}"
    return f"{about} {digest(made.tobytes())} first {' '.join(flat)}"


def digest(data: bytes) -> str:
    """The first 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def indices(kept: Iterable[int]) -> str:
    """How many, and the bits of all of them: bit i of the hexadecimal number is index i."""
    numbers = list(kept)
    return f"{len(numbers)} kept, bits {sum(1 << n for n in numbers):x}"


def flat(prefix: str, value: Any) -> Iterator[Line]:
    """A line for each leaf of nested dictionaries and lists; a list of numbers is one line."""
    if isinstance(value, dict):
        for key, inner in sorted(value.items()):
            yield from flat(f"{prefix} / {key}", inner)
        if not value:
            yield prefix, "empty"
    elif isinstance(value, list | tuple) and any(isinstance(v, dict | list | tuple) for v in value):
        for number, inner in enumerate(value):
            yield from flat(f"{prefix} / {number}", inner)
    elif isinstance(value, list | tuple):
        yield prefix, " ".join(map(plain, value)) or "empty"
    elif isinstance(value, np.ndarray):
        yield prefix, array(value)
    else:
        yield prefix, plain(value)


def row(value: Any) -> str:
    """Nested dictionaries as one line."""
    return ", ".join(f"{key[3:]} {text}" for key, text in flat("", value))


def numbers(prefix: str, text: str, skip: str = r"(?!)") -> Iterator[Line]:
    """The numbers in each printed line, without speeds and without lines that ``skip`` finds."""
    rows = [
        NUMBER.findall(SPEED.sub("", row)) for row in text.splitlines() if not re.search(skip, row)
    ]
    for count, row in enumerate(row for row in rows if row):
        yield f"{prefix} / row {count}", " ".join(row)
