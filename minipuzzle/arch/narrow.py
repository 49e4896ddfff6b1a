"""The one place that makes a block smaller: its sizes, the sizes that a search may offer, and the
indices that stay.

Every function asks the widths that the block's kind declares (``kinds.width``), those that the
search chooses; a kind may declare none, one or several.
"""

from __future__ import annotations

from collections.abc import Mapping

from minipuzzle.arch.rules import Rules
from minipuzzle.errors import UserError
from minipuzzle.kinds import Block, Width
from minipuzzle.kinds.width import Array

Sizes = Mapping[str, int]
"""Axis -> size, of axes that the search chooses; an axis that is not named stays whole."""


def resized(block: Block, sizes: Sizes) -> Block:
    """The block at other sizes of its searched axes; axes of other kinds of blocks are passed
    over.
    """
    changes: dict[str, int] = {}
    for width in block.searched:
        if width.axis in sizes:
            changes |= width.sizes(block, sizes[width.axis])
    return block.resized(**changes)


def kept(block: Block, scores: Mapping[str, Array], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The indices that the block keeps at ``sizes``, best first by ``scores`` (name -> array), in
    ascending order; axes that stay whole are not named.

    Raises: UserError where there are no scores that rank an axis.
    """
    found: dict[str, tuple[int, ...]] = {}
    for width in block.searched:
        size = sizes.get(width.axis, block.sizes[width.axis])
        if size < block.sizes[width.axis]:
            found |= width.keep(block, values_of(width, scores), size, found)
    return found


def values_of(width: Width, scores: Mapping[str, Array]) -> Array:
    """The array of ``scores`` that ranks a width. Raises: UserError where there is none."""
    if width.score not in scores:
        raise UserError(
            f"The scores have none for {width.label}.",
            got=", ".join(scores) or "a block without scores",
            allowed=f"scores with {width.score}",
            next=f"Run minipuzzle score again, or leave {width.label} whole.",
        )
    return scores[width.score]


def kept_sizes(block: Block, kept: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The size of every searched axis of a block that keeps these indices."""
    sizes = block.sizes | block.kept_sizes(kept)
    return {width.axis: sizes[width.axis] for width in block.searched}


def offered(
    block: Block, width: Width, rules: Rules, share: float, multiple: int
) -> tuple[int, ...]:
    """The sizes of an axis, from ``share`` of the whole on, that the family's files can say;
    ascending.
    """
    if width.axis in rules.fixed:
        return (block.sizes[width.axis],)
    sizes = width.candidate_sizes(block, share, multiple)
    forms = {size: resized(block, {width.axis: size}) for size in sizes}
    return tuple(size for size, form in forms.items() if rules.allows(form))
