"""Numbers as people write them: "128k", "8Ki", "47B". Parsed once, with units. No torch."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

from minipuzzle.errors import UserError
from minipuzzle.settings.declare import setting

COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20}
COUNTS = "a count such as 65536, 128k, 1M, 8Ki"
NUMBER = re.compile(
    r"([0-9]{1,40}(?:\.[0-9]{1,40})?(?:e[+-]?[0-9]{1,2})?)\s*([a-z%/]{0,8})", re.IGNORECASE
)
MOST = 10**18
"""Larger numbers are typing errors, and would not fit the int64 of the grid."""


def parse_count(text: str) -> int:
    """A count such as a context: "1M" is 1,000,000, "128k" 128,000, "8Ki" 8,192, "65536" itself.

    Raises: UserError for anything that is not a whole number of at least 1.
    """
    number, unit = split(text, COUNTS)
    if unit not in COUNT_UNITS or (number * COUNT_UNITS[unit]).denominator != 1:
        raise malformed(text, COUNTS)
    return whole(number * COUNT_UNITS[unit], text, COUNTS)


def parse_share(text: str) -> float:
    """A share: "50%" and "0.5" are a half, "0" none. Raises: UserError for what is no number."""
    number, percent, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = math.nan
    if rest or math.isnan(share):
        raise UserError(
            f"{text!r} is not a share.",
            got=text,
            allowed="0% to 100%, or 0 to 1",
            next="Write it in one of those forms.",
        )
    return share


def share(default: float, help: str, **more: Any) -> float:
    """A setting that is a share, from 0 to 1 or in percent."""
    return setting(default, help, unit="share", parse=parse_share, within=(0.0, 1.0), **more)


def token_count(
    default: int, help: str, *, within: tuple[int, int] = (1, MOST), **more: Any
) -> int:
    """A setting that is a number of tokens, a count in any of its forms."""
    return setting(default, help, unit="tokens", parse=parse_count, within=within, **more)


def split(text: str, allowed: str) -> tuple[Fraction, str]:
    match = NUMBER.fullmatch(text.strip())
    if match is None or Fraction(match[1]) <= 0:
        raise malformed(text, allowed)
    return Fraction(match[1]), match[2].lower()


def whole(value: Fraction, text: str, allowed: str) -> int:
    if not 1 <= value <= MOST:
        raise malformed(text, f"{allowed}, between 1 and {MOST:.0e}")
    return int(value)


def malformed(text: str, allowed: str) -> UserError:
    return UserError(
        f"{text!r} is not a budget or count.",
        got=text,
        allowed=allowed,
        next="Write it in one of those forms.",
    )
