"""Steps on the student's own completions: it continues prompts, and both models are compared at the
tokens that it wrote (on-policy distillation, arXiv:2306.13649 and arXiv:2306.08543).

No gradient goes through the drawing of tokens: a completion is a text like any other. What it says
is a function of the seed, the number of the step and the weights, so that a killed run goes on with
the same ones. Where the papers leave it open: docs/decisions/on-policy.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.generation import generate
from minipuzzle.identity import fingerprint
from minipuzzle.model import HybridLM
from minipuzzle.settings import Sampling
from minipuzzle.training.objectives import Objective

PROMPT, COMPLETION, PADDING = 0, 1, 2
"""Marks as ``TokenBlocks.spans`` has them: what is odd counts in the loss."""
MULTIPLE = 16
"""Of tokens in an FP8 product."""
ROUNDING = 1e-9
"""0.29 * 100 is 28.999999999999996, and its 29th step is due."""


@dataclass(kw_only=True)
class Completions:
    """What steps on completions had since the last row of the log: the sum of their losses, their
    number, and the completions and tokens in them.
    """

    loss: float = 0.0
    steps: int = 0
    count: int = 0
    tokens: int = 0

    def add(self, loss: float, segments: Sequence[Tensor]) -> None:
        """A step with ``loss`` (nats a token of a completion) on rows of ``segments`` [b, s]."""
        self.steps, self.loss = self.steps + 1, self.loss + loss
        self.count += sum(map(len, segments))
        self.tokens += sum(int((part == COMPLETION).sum()) for part in segments)

    def row(self, steps: int) -> dict[str, float]:
        """The numbers of ``FIELDS`` of a row about ``steps`` steps; NaN where none was on
        completions.
        """
        return {
            "on_policy": self.steps / steps,
            "completion_loss": self.loss / self.steps if self.steps else float("nan"),
            "completion_tokens": self.tokens / self.count if self.count else float("nan"),
        }


FIELDS = tuple(Completions().row(1))


@dataclass(frozen=True, kw_only=True)
class OnPolicy:
    """In the ``share`` of steps whose ``turn`` it is, a batch is as many of ``prompts`` (tokens [p]
    each), continued by up to ``length`` tokens or to one of ``ends``, and ``objective`` (of blocks
    with ``spans``) says what it costs. ``identity`` is of all that decides it but the weights.
    """

    share: float
    prompts: Sequence[NDArray[np.integer[Any]]]
    length: int
    ends: Collection[int]
    objective: Objective
    identity: str

    def turn(self, step: int) -> bool:
        """Whether step ``step`` (from 0) is one of them: evenly spread, and of any first n steps
        the share to within one.
        """
        return self._before(step + 1) > self._before(step)

    def batch(
        self, model: HybridLM, step: int, size: int, at_once: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The completions of a step, ``size`` of them, ``at_once`` a micro-batch: (tokens [b, s]
        int64, segments [b, s]) on the model's device, each row prompt, completion and padding.
        """
        prompts = self._prompts(self._before(step) * size, size, seed)
        drawn = int(fingerprint(seed, "completions", step), 16) >> 1
        training = model.training
        completions = generate(
            model.eval(),
            prompts,
            self.length,
            sampling=Sampling(temperature=1.0, seed=drawn),
            ends=self.ends,
        )
        model.train(training)
        device = next(model.parameters()).device
        for start in range(0, size, at_once):
            part = slice(start, start + at_once)
            tokens, segments = _rows(prompts[part], completions[part])
            yield tokens.to(device), segments.to(device)

    def _before(self, step: int) -> int:
        return floor(step * self.share + ROUNDING)

    def _prompts(self, first: int, count: int, seed: int) -> list[list[int]]:
        """``count`` from place ``first`` of an endless stream of prompts, which shuffles all of
        them anew each time it begins again.
        """
        orders: dict[int, NDArray[np.int64]] = {}
        found = []
        for place in range(first, first + count):
            epoch, at = divmod(place, len(self.prompts))
            if epoch not in orders:
                orders[epoch] = np.random.default_rng((seed, epoch)).permutation(len(self.prompts))
            found.append(self.prompts[orders[epoch][at]].tolist())
        return found


def _rows(prompts: list[list[int]], completions: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(tokens [b, s], segments [b, s]), s the longest row, rounded up to what a teacher in FP8
    takes: no token sees the padding behind it.
    """
    rows = list(zip(prompts, completions, strict=True))
    longest = max(len(p) + len(c) for p, c in rows)
    tokens = torch.zeros(len(rows), -(-longest // MULTIPLE) * MULTIPLE, dtype=torch.int64)
    segments = torch.full_like(tokens, PADDING)
    for row, (prompt, completion) in enumerate(rows):
        middle, end = len(prompt), len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor(prompt + completion)
        segments[row, :middle], segments[row, middle:end] = PROMPT, COMPLETION
    return tokens, segments
