"""What stays of a parent: the blocks and, in each, the indices kept on each axis that shrinks.

A selection is the one description of a cut. ``model`` reads it as masks, ``surgery`` as slices;
both give the same logits. Rules for Mamba heads are those of arXiv:2504.11409 (group-aware): B and
C belong to groups, so each group keeps the same number of heads, and head channels are the same in
all heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from minipuzzle.arch.architecture import Architecture
from minipuzzle.errors import UserError
from minipuzzle.identity import Plain, changed
from minipuzzle.kinds import Block, Kept


@dataclass(frozen=True, kw_only=True)
class Selection:
    """``blocks[i]`` is None where block i is dropped, else the kept indices (ascending) of each
    axis that shrinks.

    ``hidden`` are the kept hidden channels of the whole model, None for all of them. ``formats[i]``
    is the format that block i's matrices are to be written in (``settings.bits``; "" where it is
    dropped), None where none was chosen.
    """

    blocks: tuple[Kept | None, ...]
    hidden: tuple[int, ...] | None = None
    formats: tuple[str, ...] | None = None

    @staticmethod
    def everything(parent: Architecture) -> Selection:
        """The selection that keeps the whole parent."""
        return Selection(blocks=tuple({} for _ in parent.blocks))

    def identity(self) -> dict[str, Plain]:
        """What a saved run is compared by."""
        return changed(self)

    @property
    def kept_blocks(self) -> list[int]:
        """Positions in the parent of the blocks that stay."""
        return [i for i, kept in enumerate(self.blocks) if kept is not None]

    @property
    def kept_formats(self) -> tuple[str, ...] | None:
        """The format of each block that stays; None where none was chosen."""
        return None if self.formats is None else tuple(self.formats[i] for i in self.kept_blocks)

    def axes(self, index: int) -> dict[str, tuple[int, ...]]:
        """Every kept axis of a kept block, ``hidden`` included where it shrinks."""
        kept = self.blocks[index]
        if kept is None:
            raise ValueError(f"block {index} is dropped")
        return {**kept, **({} if self.hidden is None else {"hidden": self.hidden})}

    def student(self, parent: Architecture) -> Architecture:
        """The architecture that is left of the parent.

        Raises: UserError where indices are out of range, unsorted, or break Mamba's or attention's
        groups. Whether a file can say it is another question: ``parent.rules.check``.
        """
        if len(self.blocks) != len(parent.blocks):
            raise UserError(
                "The selection does not describe this model.",
                got=f"{len(self.blocks)} blocks",
                allowed=f"{len(parent.blocks)} blocks",
                next="Search again on this checkpoint.",
            )
        blocks = [self._narrow(i, parent.blocks[i]) for i in self.kept_blocks]
        hidden = parent.hidden if self.hidden is None else len(self.hidden)
        return replace(parent.at_hidden(hidden), blocks=tuple(blocks))

    def _narrow(self, index: int, block: Block) -> Block:
        kept = self.axes(index)
        allowed = (*block.prunable, "hidden")
        for axis, chosen in kept.items():
            whole = block.whole_size(axis) if axis in allowed else 0
            in_order = list(chosen) == sorted(set(chosen)) and len(chosen) > 0
            if not in_order or chosen[0] < 0 or chosen[-1] >= whole:
                raise UserError(
                    f"Block {index} cannot keep these indices of axis {axis!r}.",
                    got=str(chosen)[:80],
                    allowed=f"ascending indices below {whole} of one of {', '.join(allowed)}",
                    next="Choose other indices, or leave the axis whole.",
                )
        if (broken := block.uneven(kept)) is not None:
            (what, of), counts = broken[0].coupled, broken[1]
            raise UserError(
                f"Block {index} must keep equally many {what} in each {of}.",
                got=f"{counts} a {of}",
                allowed=f"the same number, at least 1, in each {of}",
                next="Keep the same number in every group.",
            )
        for width in block.own_widths:
            if width.ordered and kept.get(width.key, (0,))[-1] >= len(kept.get(width.key, (0,))):
                raise UserError(
                    f"Block {index} must keep the first {width.label}.",
                    got=str(kept[width.key])[:80],
                    allowed="0, 1, 2, ... without a gap",
                    next="Keep the first ones.",
                )
        narrow = block.resized(**block.kept_sizes(kept))
        if (fault := narrow.fault()) is not None:
            raise UserError(
                f"Block {index} cannot have these sizes.",
                got=fault[0],
                allowed=fault[1],
                next=f"Keep other indices of {', '.join(kept)}.",
            )
        return narrow
