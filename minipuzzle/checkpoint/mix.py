"""The formats that a search chose for the blocks of a checkpoint: a field of its config.json, which
engines pass over and ``quantize`` goes by. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minipuzzle.checkpoint.doors import RESTORE
from minipuzzle.errors import UserError
from minipuzzle.memory.formats import Format, format_of
from minipuzzle.settings.bits import BITS

CHOSEN = "block_formats"


def chosen(config: Mapping[str, Any], blocks: int) -> tuple[str, ...] | None:
    """The format of each block, by name; None where no search chose any.

    Raises: UserError for a field of something else.
    """
    found = config.get(CHOSEN)
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != blocks or any(n not in BITS for n in found):
        raise UserError(
            f"{CHOSEN} of config.json does not name a format for each block.",
            got=str(found)[:80],
            allowed=f"a list of {blocks} of {', '.join(BITS)}",
            next=RESTORE,
        )
    return tuple(found)


def with_chosen(config: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """``config`` with these formats, or with none."""
    rest = {field: value for field, value in config.items() if field != CHOSEN}
    return rest if names is None else {**rest, CHOSEN: list(names)}


def formats(
    config: Mapping[str, Any], blocks: int, name: str, group: int
) -> tuple[Format | None, ...]:
    """The format of each block under the setting ``name``: "auto" as the search chose, or fp8.

    Raises: UserError as ``chosen``.
    """
    if name != "auto":
        return (format_of(name, group),) * blocks
    found = chosen(config, blocks)
    return (format_of("fp8"),) * blocks if found is None else tuple(map(format_of, found))


def summary(formats: Sequence[Format | None]) -> str:
    """How many blocks are in which format, in words."""
    labels = ["whole" if f is None else f.packing.removesuffix("-quantized") for f in formats]
    if len(set(labels)) == 1 and formats[0] is not None:
        return formats[0].label
    return ", ".join(f"{labels.count(label)} blocks {label}" for label in dict.fromkeys(labels))
