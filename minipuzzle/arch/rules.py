"""What the checkpoints of a family can say of a pruned model. Search keeps to it, and a cut that
breaks it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from minipuzzle.errors import UserError
from minipuzzle.kinds import Block


@dataclass(frozen=True, kw_only=True)
class Multiple:
    """The product of ``axes`` is a whole multiple of the size of ``of``, in blocks that have all of
    these axes. ``sentence`` says so for people.
    """

    axes: tuple[str, ...]
    of: str
    sentence: str

    def allows(self, block: Block) -> bool:
        """Whether a block keeps to it."""
        sizes = block.sizes
        if not {*self.axes, self.of} <= set(sizes):
            return True
        return prod(sizes[axis] for axis in self.axes) % sizes[self.of] == 0


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The default is everything: any block may go, and each may have its own size.

    ``paired``: blocks 2i and 2i + 1, a mixer and its feed-forward, are one layer and stay or go
    together. ``per_block_sizes``: blocks of a kind may differ in size. ``fixed``: axes that keep
    the parent's size. ``multiples``: sizes that must be whole multiples of others. ``needs``: kinds
    of which at least one block stays.
    """

    paired: bool = False
    per_block_sizes: bool = True
    fixed: tuple[str, ...] = ()
    multiples: tuple[Multiple, ...] = ()
    needs: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """What can't be pruned, for people; empty where all can."""
        found = []
        if self.paired:
            found.append(
                "single blocks can't go, only whole layers (a mixer with the feed-forward after it)"
            )
        if not self.per_block_sizes:
            found.append("blocks of one kind keep one size")
        if self.fixed:
            found.append(f"{', '.join(self.fixed)} keep their size")
        found += [f"one block of kind {kind} stays at least" for kind in self.needs]
        return found + [multiple.sentence for multiple in self.multiples]

    def allows(self, block: Block) -> bool:
        """Whether a block has sizes that a checkpoint can have."""
        return block.fault() is None and all(multiple.allows(block) for multiple in self.multiples)

    def allows_hidden(self, blocks: Sequence[Block], hidden: int) -> bool:
        """Whether a search may give all ``blocks`` this hidden size; where other sizes are
        multiples of it, it stays as it is.
        """
        if any(block.hidden == hidden for block in blocks):
            return True
        if "hidden" in self.fixed or any(m.of == "hidden" for m in self.multiples):
            return False
        return all(self.allows(block.resized(hidden=hidden)) for block in blocks)

    def check(self, parent: Sequence[Block], kept: Sequence[int], blocks: Sequence[Block]) -> None:
        """``kept`` are the positions in the parent of the student's ``blocks``. Raises: UserError
        for a broken rule.
        """
        if self.paired and [i for i in kept if i ^ 1 not in set(kept)]:
            alone = next(i for i in kept if i ^ 1 not in set(kept))
            raise _refused(
                "drop a single block of a layer",
                f"block {alone} without block {alone ^ 1}",
                "whole layers: a mixer and its feed-forward",
            )
        if lost := [kind for kind in self.needs if kind not in {block.kind for block in blocks}]:
            raise _refused(
                f"be without {lost[0]} blocks",
                f"none of {sum(block.kind == lost[0] for block in parent)}",
                "one block of the kind at least",
            )
        for position, block in zip(kept, blocks, strict=True):
            self._check_block(parent[position], position, block)
        if self.per_block_sizes:
            return
        for kind in dict.fromkeys(block.kind for block in blocks):
            sizes = {tuple(block.sizes.items()) for block in blocks if block.kind == kind}
            if len(sizes) > 1:
                raise _refused(
                    "have blocks of one kind that differ in size",
                    f"{len(sizes)} sizes of {kind} blocks",
                    "one size for all blocks of a kind",
                )

    def _check_block(self, parent: Block, position: int, block: Block) -> None:
        was, sizes = parent.sizes, block.sizes
        for axis in self.fixed:
            if sizes.get(axis) != was.get(axis):
                raise _refused(
                    f"change the size of {axis}",
                    f"{sizes[axis]} in block {position}",
                    f"the parent's {was[axis]}",
                )
        for multiple in self.multiples:
            if not multiple.allows(block):
                names = " x ".join(multiple.axes)
                raise _refused(
                    f"have this {names}",
                    f"{' x '.join(str(sizes[axis]) for axis in multiple.axes)} in block {position}",
                    f"{names} a whole multiple of {multiple.of}, {sizes[multiple.of]}",
                )


def _refused(what: str, got: str, allowed: str) -> UserError:
    return UserError(
        f"A checkpoint of this family can't {what}.",
        got=got,
        allowed=allowed,
        next="minipuzzle inspect says what can be pruned; search keeps to it.",
    )
