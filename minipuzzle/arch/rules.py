"""What the checkpoints of a family can say of a pruned model. Search keeps to it, and a cut that
breaks it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minipuzzle.arch.blocks import Attention, Block, Mamba2
from minipuzzle.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The default is everything: any block may go, and each may have its own size.

    ``paired``: blocks 2i and 2i + 1, a mixer and its feed-forward, are one layer and stay or go
    together. ``own_sizes``: blocks of a kind may differ in size. ``fixed``: axes that keep the
    parent's size. ``whole_expansion``: Mamba heads x head_dim is a whole multiple of the hidden
    size, ``whole_heads``: that the hidden size is one of the query heads.
    """

    paired: bool = False
    own_sizes: bool = True
    fixed: tuple[str, ...] = ()
    whole_expansion: bool = False
    whole_heads: bool = False

    def sentences(self) -> list[str]:
        """What can't be pruned, for people; empty where all can."""
        said = []
        if self.paired:
            said.append(
                "single blocks can't go, only whole layers (attention or Mamba-2 with the"
                " feed-forward after it)"
            )
        if not self.own_sizes:
            said.append("blocks of one kind keep one size")
        if self.fixed:
            said.append(f"{', '.join(self.fixed)} keep their size")
        if self.whole_expansion:
            said.append("Mamba heads x head_dim stays a whole multiple of the hidden size")
        if self.whole_heads:
            said.append("the hidden size stays a whole multiple of the query heads")
        return said

    def allows_heads(self, block: Mamba2, heads: int) -> bool:
        """Whether a Mamba-2 block may have so many heads."""
        return not self.whole_expansion or (heads * block.head_dim) % block.hidden == 0

    def allows_hidden(self, blocks: Sequence[Block], hidden: int) -> bool:
        """Whether a search may give all ``blocks`` this hidden size; where it is tied to Mamba
        heads it stays as it is.
        """
        if any(block.hidden == hidden for block in blocks):
            return True
        if "hidden" in self.fixed or self.whole_expansion:
            return False
        return not self.whole_heads or all(
            hidden % b.q_heads == 0 for b in blocks if isinstance(b, Attention)
        )

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
        for position, block in zip(kept, blocks, strict=True):
            changed = [
                axis
                for axis in self.fixed
                if block.sizes.get(axis) != parent[position].sizes.get(axis)
            ]
            if changed:
                raise _refused(
                    f"change the size of {changed[0]}",
                    f"{block.sizes[changed[0]]} in block {position}",
                    f"the parent's {parent[position].sizes[changed[0]]}",
                )
            if isinstance(block, Mamba2) and not self.allows_heads(block, block.heads):
                raise _refused(
                    "have so many Mamba heads",
                    f"{block.heads} x {block.head_dim} channels in block {position}",
                    f"a whole multiple of the hidden size {block.hidden}",
                )
        for kind in () if self.own_sizes else ("mamba", "attention", "mlp"):
            sizes = {tuple(block.sizes.items()) for block in blocks if block.kind == kind}
            if len(sizes) > 1:
                raise _refused(
                    "have blocks of one kind that differ in size",
                    f"{len(sizes)} sizes of {kind} blocks",
                    "one size for all blocks of a kind",
                )


def _refused(what: str, got: str, allowed: str) -> UserError:
    return UserError(
        f"A checkpoint of this family can't {what}.",
        got=got,
        allowed=allowed,
        next="minipuzzle inspect says what can be pruned; search keeps to it.",
    )
