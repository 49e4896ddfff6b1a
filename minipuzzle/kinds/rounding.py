"""Which sizes of an axis are worth a look: shares of the whole, rounded for matrix units."""

from __future__ import annotations

from math import ceil

STEPS = 32
"""Candidate sizes are 1/32, 2/32, ... of the whole (arXiv:2504.03624: 24576..32768 by 1024)."""
MULTIPLE, SMALL_MULTIPLE = 64, 8
"""Sizes are multiples of 64, which matrix units like, where the whole allows it."""


def least_count(count: int, share: float) -> int:
    """The smallest whole number that is at least ``share`` of ``count``."""
    # 0.07 * 100 is 7.000000000000001, of which the ceiling is 8.
    return ceil(round(count * share, 6))


def rounded_sizes(whole: int, share: float, multiple: int, steps: int = STEPS) -> tuple[int, ...]:
    """``whole`` and its parts in ``steps``, rounded to multiples, from ``share`` of it on;
    ascending.
    """
    found = {whole}
    for step in range(1, steps):
        rounded = round(whole * step / steps / multiple) * multiple
        if max(1, least_count(whole, share)) <= rounded < whole:
            found.add(rounded)
    return tuple(sorted(found))
