"""The formats that a search chose for the blocks of a checkpoint: a field of its config.json, which
engines pass over and ``quantize`` goes by. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minipuzzle.checkpoint.doors import RESTORE
from minipuzzle.errors import UserError
from minipuzzle.memory.formats import Format, Pair, pair_of
from minipuzzle.settings.bits import BITS, JOIN, is_format

CHOSEN = "block_formats"


def chosen(config: Mapping[str, Any], blocks: int) -> tuple[str, ...] | None:
    """The format of each block, by name; None where no search chose any.

    Raises: UserError for a field of something else.
    """
    found = config.get(CHOSEN)
    if found is None:
        return None
    named = isinstance(found, list) and all(isinstance(n, str) and is_format(n) for n in found)
    if not named or len(found) != blocks:
        raise UserError(
            f"{CHOSEN} of config.json does not name a format for each block.",
            got=str(found)[:80],
            allowed=f"a list of {blocks} of {', '.join(BITS)}, or of two of them (fp8{JOIN}nvfp4)",
            next=RESTORE,
        )
    return tuple(found)


def with_chosen(config: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """``config`` with these formats, or with none."""
    rest = {field: value for field, value in config.items() if field != CHOSEN}
    return rest if names is None else {**rest, CHOSEN: list(names)}


def formats(config: Mapping[str, Any], blocks: int, name: str, group: int) -> tuple[Pair, ...]:
    """The formats of each block under the setting ``name``: "auto" as the search chose, or fp8.

    Raises: UserError as ``chosen``.
    """
    if name != "auto":
        return (pair_of(name, group),) * blocks
    found = chosen(config, blocks)
    return (pair_of("fp8"),) * blocks if found is None else tuple(map(pair_of, found))


def summary(formats: Sequence[Pair]) -> str:
    """How many blocks are in which format, in words."""
    if len({format for pair in formats for format in pair}) == 1 and formats[0][0] is not None:
        return formats[0][0].label
    labels = [JOIN.join(dict.fromkeys(map(_label, pair))) for pair in formats]
    return ", ".join(f"{labels.count(label)} blocks {label}" for label in dict.fromkeys(labels))


def _label(format: Format | None) -> str:
    if format is None:
        return "whole"
    group = f"-{format.group}" if format.scheme == "W4A16" else ""
    return format.packing.removesuffix("-quantized") + group
