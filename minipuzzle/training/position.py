"""Where a training stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Position:
    """Where a run stands, kept in each saved state. ``tokens`` of the data stream are used up
    (skipped steps count), in ``step`` batches, ``updates`` of which changed the model; ``window``
    holds what the log has not yet written, ``given`` the tokens of experts meanwhile, and
    ``losses`` the last ones that it has, unrounded; ``written`` is of completions
    (``on_policy.Completions``).
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
    written: dict[str, Any] = field(default_factory=dict)
