"""Budgets as people write them: "47B", "83%", "31.7GiB". Parsed once, with units. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from minipuzzle.errors import UserError

COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20}
BYTE_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
              "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip
FORMS = "parameters (47B, 4.8M, 1.2e9), a share of the parent's parameters (83%), memory (31.7GiB, 40GB)"
COUNTS = "a count such as 65536, 128k, 1M, 8Ki"
NUMBER = re.compile(r"^([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?)\s*([a-z%]*)$", re.IGNORECASE)
MOST = 10**18
"""Larger numbers are typing errors, and would not fit the int64 of the grid."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a model may have: ``parameters`` and ``bytes`` (memory at the workload), None for no limit."""

    parameters: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One or more limits; ``share`` is of the parent's parameters. Exact: 29 % of 100 is 29, which floats make 28."""

    text: tuple[str, ...]
    parameters: int | None = None
    share: Fraction | None = None
    bytes: int | None = None

    def resolve(self, parent_parameters: int) -> Limits:
        """The limits for a parent; the tighter one where parameters are limited twice."""
        shared = None if self.share is None else int(self.share * parent_parameters)
        limits = [p for p in (self.parameters, shared) if p is not None]
        return Limits(parameters=min(limits) if limits else None, bytes=self.bytes)


def parse_budget(texts: Sequence[str]) -> Budget:
    """The budget that all texts together mean. Raises: UserError for none, or one that has no meaning."""
    if not texts:
        raise UserError("There is no budget.", got="no --budget", allowed=FORMS, next="Add one: --budget 83%.")
    parameters: list[int] = []
    shares: list[Fraction] = []
    sizes: list[int] = []
    for text in texts:
        number, unit = _split(text, FORMS)
        if unit == "%":
            shares.append(number / 100)
        elif unit in BYTE_UNITS:
            sizes.append(_whole(number * BYTE_UNITS[unit], text, FORMS))
        elif unit in COUNT_UNITS:
            parameters.append(_whole(number * COUNT_UNITS[unit], text, FORMS))
        else:
            raise _malformed(text, FORMS)
    return Budget(
        text=tuple(texts), parameters=min(parameters, default=None), share=min(shares, default=None),
        bytes=min(sizes, default=None),
    )  # fmt: skip


def parse_count(text: str) -> int:
    """A count such as a context: "1M" is 1,000,000, "128k" 128,000, "8Ki" 8,192, "65536" itself.

    Raises: UserError for anything that is not a whole number of at least 1.
    """
    number, unit = _split(text, COUNTS)
    if unit not in COUNT_UNITS or (number * COUNT_UNITS[unit]).denominator != 1:
        raise _malformed(text, COUNTS)
    return _whole(number * COUNT_UNITS[unit], text, COUNTS)


def _split(text: str, allowed: str) -> tuple[Fraction, str]:
    match = NUMBER.match(text.strip())
    if match is None or Fraction(match[1]) <= 0:
        raise _malformed(text, allowed)
    return Fraction(match[1]), match[2].lower()


def _whole(value: Fraction, text: str, allowed: str) -> int:
    if not 1 <= value <= MOST:
        raise _malformed(text, f"{allowed}, between 1 and {MOST:.0e}")
    return int(value)


def _malformed(text: str, allowed: str) -> UserError:
    return UserError(f"{text!r} is not a budget or count.", got=text, allowed=allowed, next="Write it in one of those forms.")
