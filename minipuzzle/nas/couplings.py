"""Which axes have one size in all blocks of a kind, and which differ from block to block."""

from __future__ import annotations

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Width
from minipuzzle.settings import SearchSettings


def couplings(
    parent: Architecture,
    widths: tuple[tuple[Width, ...], ...],
    settings: SearchSettings,
    bits: bool,
) -> tuple[tuple[int, ...], ...]:
    """Numbers below 0 for axes that have one size in all blocks of a kind, others for axes whose
    size may differ from block to block, as ``bits`` do where they are chosen.
    """
    shared = sorted(
        {
            (block.kind, width.axis)
            for block, searched in zip(parent.blocks, widths, strict=True)
            for width in searched
            if not _differs(parent, width.per_block, settings)
        }
    )
    found: list[tuple[int, ...]] = []
    own = 0
    for block, searched in zip(parent.blocks, widths, strict=True):
        numbers = []
        for width in searched:
            key = (block.kind, width.axis)
            if key in shared:
                numbers.append(shared.index(key) - len(shared))
            else:
                numbers.append(own)
                own += 1
        if bits:
            numbers.append(own)
            own += 1
        found.append(tuple(numbers))
    return tuple(found)


def _differs(
    parent: Architecture, per_block: tuple[str, bool] | None, settings: SearchSettings
) -> bool:
    """Whether the settings and the family let blocks differ on an axis."""
    if per_block is None or not parent.rules.per_block_sizes:
        return False
    name, value = per_block
    return bool(getattr(settings, name)) == value
