"""Where a training stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from minipuzzle.settings import Training


@dataclass(kw_only=True)
class Position:
    """Where a run stands, kept in each saved state. ``tokens`` of the data stream are used up
    (skipped steps count), in ``step`` batches, ``updates`` of which changed the model; ``window``
    holds what the log has not yet written, ``given`` the tokens of experts meanwhile, and
    ``losses`` the last ones that it has, unrounded; ``written`` is of completions
    (``on_policy.Completions``), ``averaged`` the number of steps in the average,
    ``curve`` the points of ``curve.Curve``.
    """

    tokens: int = 0
    step: int = 0
    updates: int = 0
    seconds: float = 0.0
    batch: int = 0
    learning_rate: float = 0.0
    guard: dict[str, Any] = field(default_factory=dict)
    window: list[tuple[float, float, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    given: list[list[float]] = field(default_factory=list)
    averaged: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    written: dict[str, Any] = field(default_factory=dict)

    def going_on(self, settings: Training) -> str:
        """What to say of a training that goes on from here: what may change, and has."""
        changed = [
            f"{name} {before:g} -> {now:g}"
            for name, before, now in (
                ("batch", self.batch, settings.batch),
                ("learning rate", self.learning_rate, settings.learning_rate),
            )
            if before != now
        ]
        return f"going on after {self.tokens:,} tokens" + (
            f", with {', '.join(changed)}" if changed else ""
        )
