"""The stretches of a run: each on blocks of one length."""

from __future__ import annotations

import math
from dataclasses import dataclass

from minipuzzle.data import TokenBlocks
from minipuzzle.data.pieces import Pieces, cut
from minipuzzle.settings import Training
from minipuzzle.settings.lengths import Lengths, at_length


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The steps that begin at ``start`` tokens or later and before ``stop``: their blocks, and the
    settings with the batch and micro-batch of that length.
    """

    blocks: TokenBlocks | Pieces
    settings: Training
    start: float
    stop: float

    def __str__(self) -> str:
        length = self.blocks.block_length
        return f"{self.settings.batch} blocks of {length:,} tokens in a step"

    def positions(self, least: float = 0.0) -> range:
        """What its steps take of the stream of its blocks, whatever batches went before; on to
        ``least`` tokens where it ends earlier.
        """
        length = self.blocks.block_length
        stop = max(least, min(self.stop, self.settings.tokens))
        return range(int(self.start // length), math.ceil(stop / length) - 1 + self.settings.batch)

    def at_once(self, ranks: int) -> int:
        """Tokens that go through the model of each of ``ranks`` processes at once."""
        together = self.settings.context_parallel
        share = self.settings.batch * together // ranks
        return (self.settings.micro_batch or share) * self.blocks.block_length // together


def stages(blocks: TokenBlocks, settings: Training, lengths: Lengths = ()) -> list[Stage]:
    """Those of a run on ``blocks``, cut to ``lengths`` where there are some; ``settings.batch``
    counts blocks of the first one. The last stage ends with the run.

    Raises: UserError where a step's tokens are no whole number of blocks.
    """
    found: list[Stage] = []
    done = 0.0
    for length, share in lengths or ((blocks.block_length, 1.0),):
        start, done = done * settings.tokens, done + share
        first = lengths[0][0] if lengths else length
        found.append(
            Stage(
                blocks=cut(blocks, length),
                settings=at_length(settings, first, length),
                start=start,
                stop=math.inf if len(found) + 1 == len(lengths or (1,)) else done * settings.tokens,
            )
        )
    return found
