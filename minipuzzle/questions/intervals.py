"""Intervals of 95 % of shares of right answers. No torch.

Of one share Wilson's score interval, of the difference between two models' on the same questions
Newcombe's for paired shares (his method 10, Statistics in Medicine 17, 1998), of a mean of
independent shares from their limits (MOVER, Zou and Donner, Statistics in Medicine 27, 2008). None
of them has no width where all answers are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054


class Interval(NamedTuple):
    """A value and its limits."""

    value: float
    low: float
    high: float

    def above(self, chance: float) -> Interval:
        """With ``chance`` taken off: 0 where a model guesses, 1 where all is right."""
        return Interval(*((part - chance) / (1 - chance) for part in self))

    def over(self, span: float) -> Interval:
        """Divided by ``span``."""
        return Interval(*(part / span for part in self))


def share(right: NDArray[np.bool_]) -> Interval:
    """Of right answers [n], n at least 1."""
    n, p = len(right), float(right.mean())
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return Interval(p, middle - half, middle + half)


def difference(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> Interval:
    """The first model's share less the other's, on the same questions [n]."""
    n, a, b = len(one), share(one), share(other)
    both, neither = int((one & other).sum()), int((~one & ~other).sum())
    only, lost = int((one & ~other).sum()), int((~one & other).sum())
    product = (both + only) * (lost + neither) * (both + lost) * (only + neither)
    excess = both * neither - only * lost
    corrected = max(excess - n / 2, 0.0) if excess > 0 else float(excess)
    phi = corrected / sqrt(product) if product else 0.0
    value = (only - lost) / n
    down = _joined(a.value - a.low, b.high - b.value, phi)
    up = _joined(b.value - b.low, a.high - a.value, phi)
    return Interval(value, value - down, value + up)


def mean(parts: Sequence[Interval]) -> Interval:
    """Of independent ones, each with the same weight."""
    count, value = len(parts), sum(part.value for part in parts) / len(parts)
    down = sqrt(sum((part.value - part.low) ** 2 for part in parts)) / count
    up = sqrt(sum((part.high - part.value) ** 2 for part in parts)) / count
    return Interval(value, value - down, value + up)


def _joined(one: float, other: float, phi: float) -> float:
    return sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))
