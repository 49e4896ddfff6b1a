"""Rotary position embedding as data: which channels of a head turn, how fast, and how a longer
context slows them.

Channel pair k of ``dim`` turns by position x theta^(-2k/dim) (arXiv:2104.09864). The scalings are
those of transformers' ``modeling_rope_utils``: linear divides every speed, dynamic raises theta
with the length (NTK), llama3 and yarn (arXiv:2309.00071) divide the slow pairs only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True, kw_only=True)
class Rope:
    """The first ``dim`` channels of each head turn; the rest stay.

    ``original`` is the context, in tokens, that the speeds were trained for (dynamic, llama3,
    yarn). ``low`` and ``high`` are llama3's frequency factors and yarn's slow and fast numbers of
    turns. ``attention_factor`` multiplies cosines and sines (yarn).
    """

    dim: int
    theta: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0


def rope_speeds(rope: Rope, length: int) -> NDArray[np.float64]:
    """[dim / 2] radians a position, fastest first, for a sequence of ``length`` tokens (which only
    "dynamic" reads).
    """
    theta = rope.theta
    if rope.kind == "dynamic":
        grown = rope.factor * max(length, rope.original) / rope.original - (rope.factor - 1)
        theta *= grown ** (rope.dim / (rope.dim - 2))
    speeds: NDArray[Any] = theta ** (-np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim)
    if rope.kind == "linear":
        return speeds / rope.factor
    if rope.kind == "llama3":
        return speeds * _blend(
            rope, (rope.original * speeds / (2 * pi) - rope.low) / (rope.high - rope.low)
        )
    if rope.kind == "yarn":
        low, high = (_pair(rope, turns) for turns in (rope.high, rope.low))
        if rope.truncate:
            low, high = floor(low), ceil(high)
        low, high = max(low, 0), min(high, rope.dim - 1)
        return speeds * _blend(rope, 1 - (np.arange(rope.dim // 2) - low) / (high - low or 0.001))
    return speeds


def _blend(rope: Rope, untouched: NDArray[Any]) -> NDArray[Any]:
    """1 where ``untouched`` is 1 or more, 1 / factor where it is 0 or less, straight between."""
    share: NDArray[Any] = np.clip(untouched, 0, 1)
    return share + (1 - share) / rope.factor


def _pair(rope: Rope, turns: float) -> float:
    """The pair (a real number) that turns so often over the original context."""
    return rope.dim * log(rope.original / (turns * 2 * pi)) / (2 * log(rope.theta))
