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
    is ``recomputed``, only that input until its turn comes.
    """

    gradients: int
    copies: int
    kept: int
    given: int
    recomputed: bool

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

    @property
    def total(self) -> int:
        """Together."""
        return self.gradients + self.copies + self.activations


def worst_moment(
    blocks: Sequence[BlockBytes], head: int, embedding: int, *, accumulates: bool
) -> Moment:
    """Of a step whose loss makes the gradient of the ``head`` (bytes) and whose end makes that of
    the ``embedding``. With ``accumulates`` the sums of earlier micro-batches are there throughout.
    """
    return max(_moments(blocks, head, embedding, accumulates), key=lambda moment: moment.total)


def _moments(
    blocks: Sequence[BlockBytes], head: int, embedding: int, accumulates: bool
) -> Iterator[Moment]:
    before = sum(block.gradients for block in blocks) + head + embedding if accumulates else 0
    waiting = list(accumulate((block.waiting for block in blocks), initial=0))
    copies = list(accumulate((block.copies for block in blocks), initial=0))
    # The loss: all blocks have run. Autocast's copies of weights live until the forward pass ends,
    # those of recomputed blocks too.
    yield Moment(gradients=before + head, copies=copies[-1], activations=waiting[-1])
    made = head
    kept_copies = list(
        accumulate((0 if block.recomputed else block.copies for block in blocks), initial=0)
    )
    for i in reversed(range(len(blocks))):
        block = blocks[i]
        made += block.gradients
        yield Moment(
            gradients=before + (block.gradients if accumulates else made),
            copies=kept_copies[i] + block.copies,
            activations=waiting[i] + block.kept,
        )
    yield Moment(gradients=before + (embedding if accumulates else made + embedding))
