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
    """``hidden`` [samples + capacity * shared, s, hidden]: the parent on all samples, then each
    variant on the first ``shared`` of them. Variants lie side by side, so a batch may hold rows of
    several.

    ``device`` computes; ``home`` holds ``hidden``: the same device, or pinned CPU memory where it
    does not fit there.
    """

    def __init__(
        self,
        *,
        samples: int,
        shared: int,
        length: int,
        width: int,
        capacity: int,
        batch: int,
        dtype: torch.dtype,
        device: torch.device,
        home: torch.device,
        progress: Progress,
    ) -> None:
        self.samples, self.shared, self.batch = samples, shared, batch
        self.device, self.progress = device, progress
        self.away = home != device
        rows = samples + capacity * shared
        self.hidden = torch.empty(
            rows, length, width, dtype=dtype, device=home, pin_memory=self.away
        )
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
    def run(self, module: ResidualBlock, start: int, stop: int, target: int | None = None) -> None:
        """h + branch(h) for rows start..stop-1, in batches; written in place or to rows from
        ``target``.
        """
        for low in range(start, stop, self.batch):
            high = min(low + self.batch, stop)
            to = (
                self.hidden[low:high]
                if target is None
                else self.hidden[target + low - start : target + high - start]
            )
            part = self.hidden[low:high].to(self.device, non_blocking=True)
            added = module.branch(part, Context())
            if self.away:
                to.copy_(part.add_(added), non_blocking=True)
            else:
                torch.add(part, added, out=to)
            self.progress.advance(high - low)

    def begin(self, variant: Variant) -> int:
        """A place for a new variant; its first row."""
        start = self.alive
        self.variants.append(variant)
        return start

    def settle(self) -> None:
        """Wait until ``hidden`` in CPU memory is what was computed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
