"""What more tokens would bring, by a power law through the validation losses along a training, and
how far that can be trusted.

L(t) = a + b t^-c (arXiv:2001.08361; with the constant arXiv:2203.15556), least squares over all
points; the interval is that of the fitted curve (delta method, Student's t with n - 3 degrees of
freedom), not of a single measurement. docs/decisions/forecast.md says what it cannot know.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import t as student_t

FACTORS = (2, 4)
FEWEST = 6
"""Points: three parameters, and as many again to say how well they fit."""
LEAST_FIT = 0.95
"""Of the variance of the losses that the curve must explain."""
STEEPEST = 4.0
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """``losses``: by factor of the tokens (the loss there, its interval's lower and upper end)."""

    losses: dict[int, tuple[float, float, float]]


def forecast(points: Sequence[tuple[int, float]]) -> Forecast | str:
    """The forecast from (tokens, loss) along a training, or why there is none."""
    if len(points) < FEWEST:
        return f"{len(points)} points, at least {FEWEST} are needed"
    tokens, losses = np.array(points, dtype=np.float64).T
    if not np.isfinite(losses).all():
        return "a loss is no number"
    fall = losses[0] - losses[-1]
    if fall <= 0:
        return "the loss did not fall"
    found = _fit(tokens / tokens[-1], losses)
    if found is None:
        return "no power law fits these points"
    best, covariance = found
    unexplained = ((losses - _law(tokens / tokens[-1], *best)) ** 2).sum()
    explained = 1 - unexplained / ((losses - losses.mean()) ** 2).sum()
    if explained < LEAST_FIT:
        return f"the points are no power law: it explains {explained:.0%} of their variance"
    wide = student_t.ppf((1 + LEVEL) / 2, len(points) - len(best))
    ahead = {}
    for factor in FACTORS:
        loss, half = _law(factor, *best), wide * _deviation(factor, best, covariance)
        if half > fall:
            return f"the points scatter so much that {factor} x the tokens could bring anything"
        ahead[factor] = (float(loss), float(loss - half), float(loss + half))
    return Forecast(losses=ahead)


def _law(t: Any, a: float, b: float, c: float) -> Any:
    return a + b * t**-c


def _fit(
    t: NDArray[np.float64], losses: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(a, b, c) and their covariance; None where the search does not end, or ends at a bound."""
    fall = losses[0] - losses[-1]
    start = (max(0.0, losses[-1] - fall / 4), max(fall / 4, 1e-12), 0.5)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)  # no covariance can be given
            best, covariance = curve_fit(
                _law, t, losses, p0=start, bounds=((0, 0, 0), (np.inf, np.inf, STEEPEST))
            )
    except (RuntimeError, OptimizeWarning):
        return None
    return None if best[2] > 0.99 * STEEPEST or best[1] <= 0 else (best, covariance)


def _deviation(factor: float, best: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    """Of the curve at ``factor`` times the tokens, to first order in its parameters."""
    _, b, c = best
    power = factor**-c
    slope = np.array([1.0, power, -b * power * np.log(factor)])
    return float(np.sqrt(max(0.0, slope @ covariance @ slope)))
