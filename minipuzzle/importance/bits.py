"""The formats in which a scoring measures each block."""

from __future__ import annotations

from contextlib import AbstractContextManager

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.cost.files import files_of
from minipuzzle.importance.curves import Variant
from minipuzzle.model.base import ResidualBlock
from minipuzzle.model.rounded import Rounding
from minipuzzle.settings import ScoreSettings
from minipuzzle.settings.bits import BITS, WHOLE, parse_bits


def measured_bits(checkpoint: Checkpoint, settings: ScoreSettings) -> list[tuple[int, ...]]:
    """For each block the bits of the formats that its columns are whole groups of, ascending; none
    where no format is to be measured. What stays as it is does no damage.

    Raises: UserError for a block that none of them fits, and for experts in one tensor.
    """
    files = files_of(checkpoint, parse_bits(settings.bits))
    parent = checkpoint.architecture
    if files is None:
        return [()] * len(parent.blocks)
    files.check(parent)
    known = {block: files.offered(parent, block) for block in dict.fromkeys(parent.blocks)}
    return [tuple(n for n in known[block] if n < BITS[WHOLE]) for block in parent.blocks]


class Rounded:
    """Blocks in the formats that are measured; ``bits[i]`` those of block i."""

    def __init__(self, checkpoint: Checkpoint, settings: ScoreSettings) -> None:
        self.bits = measured_bits(checkpoint, settings)
        self._names, self._rounding = parse_bits(settings.bits), Rounding(checkpoint)

    def applied(self, module: ResidualBlock, variant: Variant) -> AbstractContextManager[object]:
        """Meanwhile the block of a variant has matrices of its bits."""
        return self._rounding.block(module, variant.block, self._names[variant.size])
