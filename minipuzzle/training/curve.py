"""The validation loss along a training, from which the report forecasts what more tokens bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minipuzzle.model import HybridLM

POINTS = 11
"""Half-octaves of tokens: at the end, at 0.71 of all tokens, at a half, ... at 1/32."""
FEWEST_STEPS = 64
"""Else the first points fall into one step."""


class Curve:
    """``points`` (tokens, ``measure`` of the model there) of a training on ``tokens`` tokens in
    ``steps`` steps; none where these are too few.
    """

    def __init__(self, measure: Callable[[HybridLM], float], tokens: int, steps: int) -> None:
        self.measure = measure
        self.points: list[tuple[int, float]] = []
        self.marks = [tokens * 2 ** (-k / 2) for k in range(POINTS if steps >= FEWEST_STEPS else 0)]

    def resume(self, points: Sequence[Sequence[float]]) -> None:
        """Begin with the points that a saved training had."""
        self.points = [(int(tokens), loss) for tokens, loss in points]

    def due(self, before: int, after: int) -> bool:
        """Whether a step that took the training from ``before`` to ``after`` tokens passed one of
        the places where the loss is measured.
        """
        return any(before < mark <= after for mark in self.marks)

    def add(self, model: HybridLM, tokens: int) -> None:
        """Measure the model as it is used, after so many tokens."""
        training = model.training
        self.points = [*self.points, (tokens, self.measure(model.eval()))]
        model.train(training)
