"""Which of several sources each block of an endless stream is from, so that each has its share of
every stretch of it, and how many blocks of each make a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=8)
def schedule(weights: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(source [period], how many blocks of that source stand before it in the period [period]).

    The period is the sum of the weights over their greatest common divisor, and a stretch as long
    as it has each share exactly. From its start on no source is ever a block off: at most
    1 - 1/(2 k - 2) of one for k sources, and so less than two over any stretch. Source: Tijdeman,
    The chairman assignment problem, Discrete Mathematics 32 (1980) 323-330.
    """
    total, count = sum(weights), len(weights)
    period = total // gcd(*weights)
    sources, before = (np.zeros(period, dtype=np.int64) for _ in range(2))
    if count == 1:
        return sources, before
    given = [0] * count
    for place in range(period):
        due = [w * (place + 1) - total * x for w, x in zip(weights, given, strict=True)]
        late = [i for i in range(count) if (2 * count - 2) * due[i] >= total]
        latest = ((2 * count - 3) * total - (2 * count - 2) * d for d in due)
        until = [Fraction(t, w) for t, w in zip(latest, weights, strict=True)]
        chosen = min(late, key=until.__getitem__)
        sources[place], before[place] = chosen, given[chosen]
        given[chosen] += 1
    return sources, before


def apportion(weights: Sequence[int], limits: Sequence[int], count: int | None = None) -> list[int]:
    """How many blocks of each source make ``count``, or as many as there are in these shares where
    None; none more than its limit.

    Each is its share rounded down, and what is missing comes one by one from the source that is
    furthest from its share. ``count`` is at most the sum of the limits.
    """
    total = sum(weights)
    if count is None:
        count = min(limit * total // weight for limit, weight in zip(limits, weights, strict=True))
    counts = [min(weight * count // total, n) for weight, n in zip(weights, limits, strict=True)]
    while sum(counts) < count:
        free = [i for i, limit in enumerate(limits) if counts[i] < limit]
        counts[max(free, key=lambda i: weights[i] * count - total * counts[i])] += 1
    return counts
