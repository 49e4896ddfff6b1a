"""The hidden states that flow from block to block: the parent's, and beside them those of each
variant begun so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minipuzzle.importance.curves import Variant
from minipuzzle.model.base import Context, ResidualBlock
from minipuzzle.progress import Progress
from minipuzzle.shapes import Float


class Streams:
    """``hidden`` [at least samples + variants * shared, s, hidden]: the parent on all samples, then
    each variant on the first ``shared`` of them. Variants lie side by side, so a batch may hold
    rows of several.
    """

    def __init__(
        self, hidden: Tensor, *, samples: int, shared: int, batch: int, progress: Progress
    ) -> None:
        self.hidden, self.samples, self.shared, self.batch = hidden, samples, shared, batch
        self.device, self.progress = hidden.device, progress
        self.variants: list[Variant] = []

    @property
    def alive(self) -> int:
        """Rows in use: the parent's and those of variants begun."""
        return self.samples + len(self.variants) * self.shared

    def variant(self, number: int) -> Float[Tensor, "shared s d"]:
        """The rows of a variant."""
        start = self.samples + number * self.shared
        return self.hidden[start : start + self.shared]

    @torch.no_grad()
    def run(
        self,
        module: ResidualBlock,
        start: int,
        stop: int,
        *,
        target: int | None = None,
        again: bool = False,
    ) -> None:
        """h + branch(h) for rows start..stop-1, in batches; written in place or to rows from
        ``target``. Rows that have passed this block before, ``again``, are no progress.
        """
        by = 0 if target is None else target - start
        for low in range(start, stop, self.batch):
            high = min(low + self.batch, stop)
            part = self.hidden[low:high]
            torch.add(part, module.branch(part, Context()), out=self.hidden[low + by : high + by])
            if not again:
                self.progress.advance(high - low)

    def begin(self, variant: Variant) -> int:
        """A place for a new variant; its first row."""
        start = self.alive
        self.variants.append(variant)
        return start

    def settle(self) -> None:
        """Wait until ``hidden`` holds what was computed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
