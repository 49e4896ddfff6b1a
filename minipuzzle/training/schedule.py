"""Learning rate over a run: linear warm-up, then half a cosine down to a fraction of the peak."""

from __future__ import annotations

from math import cos, pi

from minipuzzle.settings import Training


def learning_rate(settings: Training, step: float, steps: int) -> float:
    """The rate of step ``step`` (from 0; a fraction where the batch was another before) of
    ``steps``.
    """
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    floor = settings.learning_rate * settings.final_ratio
    return floor + (settings.learning_rate - floor) * 0.5 * (1 + cos(pi * done))
