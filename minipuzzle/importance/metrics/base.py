"""What a metric is: a file of this folder that holds ``METRIC``, one of these.

It compares the end of a model of which one block was changed with the end of the whole parent, at
each token of the calibration text. An end is the hidden states after the final norm [n, hidden], or
their logits [n, vocab]; n tokens of any samples at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minipuzzle.shapes import Float, Float64, Int

NO_TARGET = -100
"""The target of a token that nothing follows: torch's ``ignore_index``."""


def as_it_is(end: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> Float[Tensor, "n c"]:
    """The parent's end itself."""
    return end


@dataclass(frozen=True, kw_only=True)
class Metric:
    """sum ``distance(known, changed, targets)`` / sum ``scale(whole, targets)`` over the text, in
    float64, where ``known = prepare(whole, targets)`` is computed once for all variants.

    ``targets`` [n] int64 are the next tokens, NO_TARGET where there is none. ``unit`` is the
    result's; ``logits``: it compares logits, not hidden states. ``source`` is the paper or code.
    """

    source: str
    unit: str
    logits: bool
    distance: Callable[[Tensor, Tensor, Tensor], Tensor]
    scale: Callable[[Tensor, Tensor], float]
    prepare: Callable[[Tensor, Tensor], Tensor] = as_it_is


def squared_difference(
    known: Float[Tensor, "n c"], changed: Float[Tensor, "n c"], targets: Int[Tensor, " n"]
) -> Float64[Tensor, ""]:
    """Sum over tokens and channels."""
    return (changed - known).square_().sum(dtype=torch.float64)
