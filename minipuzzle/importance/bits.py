"""The formats in which a scoring measures each block: what reads the stream and what writes into
it, one after the other; a block with experts as a whole.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.cost.files import files_of
from minipuzzle.importance.curves import Variant
from minipuzzle.model.base import ResidualBlock
from minipuzzle.model.rounded import Rounding
from minipuzzle.settings import ScoreSettings
from minipuzzle.settings.bits import BOTH, JOIN, READS, WHOLE, WRITES, parse_bits

APPLIED = {READS: "{0}" + JOIN + WHOLE, WRITES: WHOLE + JOIN + "{0}", BOTH: "{0}"}
"""The format of a block whose part is measured in a format."""


def measured_formats(
    checkpoint: Checkpoint, settings: ScoreSettings
) -> list[tuple[tuple[str, int], ...]]:
    """For each block (format, part) of those that its columns are whole groups of; none where no
    format is to be measured. What stays as it is does no damage.

    Raises: UserError for a block that none of them fits, and for experts in one tensor.
    """
    files = files_of(checkpoint, parse_bits(settings.bits))
    parent = checkpoint.architecture
    if files is None:
        return [()] * len(parent.blocks)
    files.check(parent)
    known = {
        block: tuple(
            (files.names[bits], part)
            for bits in files.offered(parent, block)
            if files.names[bits] != WHOLE
            for part in ((BOTH,) if block.stacks else (READS, WRITES))
        )
        for block in dict.fromkeys(parent.blocks)
    }
    return [known[block] for block in parent.blocks]


class Rounded:
    """Blocks in the formats that are measured; ``formats[i]`` those of block i."""

    def __init__(self, checkpoint: Checkpoint, settings: ScoreSettings) -> None:
        self.formats = measured_formats(checkpoint, settings)
        self._rounding = Rounding(checkpoint)

    def applied(self, module: ResidualBlock, variant: Variant) -> AbstractContextManager[object]:
        """Meanwhile the part of a block that a variant is about is in its format."""
        assert variant.axis is not None
        name = APPLIED[variant.size].format(variant.axis)
        return self._rounding.block(module, variant.block, name)
