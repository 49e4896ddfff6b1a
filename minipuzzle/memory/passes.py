"""In how many passes over the blocks a scoring goes through its samples.

A variant's stream lives from its block to the end, and there are three or four a block: all of them
at once take 90 GiB of an 8B and 128 samples. So few samples at a time take all variants through the
blocks, each time beside the parent's on the same samples. What decides which channels a narrower
block keeps, the scores of all the parent's samples, is found in the first pass or before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One way through all blocks: the parent on ``samples`` samples from ``start`` on, each variant
    on the first ``shared`` of these. ``watched``: the parent has not passed on them before;
    ``ranked``: after it, it has on all samples, so that the scores of its widths are known.
    """

    start: int
    samples: int
    shared: int
    watched: bool
    ranked: bool

    def of(self, samples: int, shared: int) -> Pass:
        """What of it a process does that has fewer samples, as the later ones of several."""
        return replace(
            self,
            samples=max(0, min(self.samples, samples - self.start)),
            shared=max(0, min(self.shared, shared - self.start)),
        )

    def rows(self, variants: int) -> int:
        """Samples of which hidden states are held at the end."""
        return self.samples + variants * self.shared


def first_round(
    *, samples: int, shared: int, variants: int, rows: int, batch: int
) -> tuple[Pass, ...]:
    """The passes of the whole parent, in which at most ``rows`` samples have hidden states at once,
    or a sample of the parent and of each of its ``variants`` where that is more.

    One pass where all fits. Else as many shared samples as fit beside all of the parent's, and the
    rest after it; where none does, the parent's pass first, in whole batches.
    """
    beside = min(shared, (rows - samples) // variants)
    if beside >= 1:
        head = [Pass(start=0, samples=samples, shared=beside, watched=True, ranked=True)]
    else:
        beside, most = 0, max(1, rows // batch) * batch
        head = [
            Pass(
                start=start, samples=count, shared=0, watched=True, ranked=start + count == samples
            )
            for start, count in _parts(0, samples, most)
        ]
    return (*head, *later_round(shared=shared, variants=variants, rows=rows, start=beside))


def later_round(*, shared: int, variants: int, rows: int, start: int = 0) -> tuple[Pass, ...]:
    """The passes of shared samples from ``start`` on, all of which the parent has passed once."""
    most = max(1, rows // (1 + variants))
    return tuple(
        Pass(start=first, samples=count, shared=count, watched=False, ranked=True)
        for first, count in _parts(start, shared, most)
    )


def _parts(start: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
    """(first, how many) of at most so many each."""
    for first in range(start, stop, most):
        yield first, min(most, stop - first)
