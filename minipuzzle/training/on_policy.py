"""Steps on the student's own completions: it continues prompts, and both models are compared at the
tokens that it wrote (on-policy distillation, arXiv:2306.13649 and arXiv:2306.08543).

No gradient goes through the drawing of tokens: a completion is a text like any other. What it says
is a function of the seed, the number of the step, its row in the batch and the weights, so that a
killed run goes on with the same ones, and several processes write what one does. Where the papers
leave it open: docs/decisions/on-policy.md.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
from minipuzzle.ranks import Ranks
from minipuzzle.settings import Sampling, Training
from minipuzzle.training.objectives import Objective
from minipuzzle.training.parallel import whole
from minipuzzle.training.update import own_rows

PROMPT, COMPLETION, PADDING = 0, 1, 2
"""Marks as ``TokenBlocks.spans`` has them: what is odd counts in the loss."""
MULTIPLE = 16
"""Of tokens in an FP8 product, as a teacher makes them of a row, or of each part of one."""
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

    def add(self, loss: float, lengths: Sequence[int]) -> None:
        """A step with ``loss`` (nats a token of a completion) on completions of these
        ``lengths``.
        """
        self.steps, self.loss = self.steps + 1, self.loss + loss
        self.count, self.tokens = self.count + len(lengths), self.tokens + sum(lengths)

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
        self, model: HybridLM, step: int, settings: Training, ranks: Ranks
    ) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
        """The completions of a step: this process's micro-batches (tokens [b, s] int64, segments
        [b, s]) on its device, each row prompt, completion and padding; and how long all of them
        are, over all processes.

        Each process continues an equal part of the prompts. Raises: UserError, in all of them, as
        ``whole`` and ``generate``.
        """
        size, world = settings.batch, ranks.world
        prompts = self._prompts(self._before(step) * size, size, settings.seed)
        drawn = int(fingerprint(settings.seed, "completions", step), 16) >> 1
        writer = whole(model, ranks)
        training = writer.training
        writer.eval()

        def mine() -> list[list[int]]:
            first, stop = (size * rank // world for rank in (ranks.rank, ranks.rank + 1))
            if first == stop:  # fewer rows than processes, some of which share sequences
                return []
            return generate(
                writer,
                prompts[first:stop],
                self.length,
                sampling=Sampling(temperature=1.0, seed=drawn),
                ends=self.ends,
                first=first,
                of=size,
            )

        completions = [row for rows in ranks.together(mine) for row in rows]
        writer.train(training)
        multiple = MULTIPLE * settings.context_parallel
        parts = [
            _rows([(prompts[i], completions[i]) for i in rows], multiple)
            for rows in own_rows(settings, ranks)
        ]
        moved = [(tokens.to(ranks.device), kinds.to(ranks.device)) for tokens, kinds in parts]
        return moved, [len(completion) for completion in completions]

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


def _rows(rows: list[tuple[list[int], list[int]]], multiple: int) -> tuple[Tensor, Tensor]:
    """(tokens [b, s], segments [b, s]) of prompts and completions, s the longest row, rounded up to
    a ``multiple``: no token sees the padding behind it.
    """
    longest = max(len(p) + len(c) for p, c in rows)
    tokens = torch.zeros(len(rows), -(-longest // multiple) * multiple, dtype=torch.int64)
    segments = torch.full_like(tokens, PADDING)
    for row, (prompt, completion) in enumerate(rows):
        middle, end = len(prompt), len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor(prompt + completion)
        segments[row, :middle], segments[row, middle:end] = PROMPT, COMPLETION
    return tokens, segments
