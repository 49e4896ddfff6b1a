"""The worst moment of a training step. While the backward pass makes gradients it gives back what
it made them from, so that the whole of both is never held at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, kw_only=True)
class BlockBytes:
    """What one block holds in a step: the gradients of its weights, their ``copies`` in the dtype
    of products, and what it ``kept`` for the backward pass, its ``given`` input among it; where it
    is ``recomputed``, only that input until its turn comes. Weights that it has ``gathered`` stay
    until then in any case. ``working`` is what its own backward pass makes besides and gives back.
    """

    gradients: int
    copies: int
    kept: int
    given: int
    recomputed: bool
    working: int
    gathered: int = 0

    @property
    def waiting(self) -> int:
        """Until the backward pass comes to it."""
        return self.given if self.recomputed else self.kept


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Bytes at one moment of the backward pass."""

    gradients: int = 0
    copies: int = 0
    activations: int = 0
    working: int = 0

    @property
    def total(self) -> int:
        """Together."""
        return self.gradients + self.copies + self.activations + self.working


def worst_moment(
    blocks: Sequence[BlockBytes], *, head: int, end: int, summed: int, loss: int
) -> Moment:
    """Of a step whose ``loss`` works in so many bytes and makes the gradient of the ``head``, and
    whose end makes ``end`` bytes, the embedding's gradient among them. ``summed`` bytes of earlier
    micro-batches' gradients are there throughout; a gradient is then given back once it is added.
    """
    return max(_moments(blocks, head, end, summed, loss), key=lambda moment: moment.total)


def _moments(
    blocks: Sequence[BlockBytes], head: int, end: int, summed: int, loss: int
) -> Iterator[Moment]:
    waiting = list(accumulate((block.waiting for block in blocks), initial=0))
    copies = list(accumulate((block.copies + block.gathered for block in blocks), initial=0))
    # The loss: all blocks have run. Autocast's copies of weights live until the forward pass ends,
    # those of recomputed blocks too.
    yield Moment(gradients=summed + head, copies=copies[-1], activations=waiting[-1], working=loss)
    made = head
    left = ((0 if block.recomputed else block.copies) + block.gathered for block in blocks)
    kept_copies = list(accumulate(left, initial=0))
    for i in reversed(range(len(blocks))):
        block = blocks[i]
        made += block.gradients
        yield Moment(
            gradients=summed + (block.gradients if summed else made),
            copies=kept_copies[i] + block.copies + block.gathered,
            activations=waiting[i] + block.kept,
            working=block.working,
        )
    yield Moment(gradients=summed + (end if summed else made + end))
