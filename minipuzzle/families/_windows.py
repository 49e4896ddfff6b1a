"""Sliding windows in a config.json: which layers have one, and how many tokens it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import error, positive
from minipuzzle.kinds import Attention

KINDS_OF_ATTENTION = {"full_attention": False, "attention": False, "sliding_attention": True}


def windows(
    fields: Mapping[str, Any], window: int | None, implied: Sequence[bool]
) -> list[int | None]:
    """The window of each layer, None where it sees all: the kinds in ``layer_types``, or where
    that is null, ``implied``.

    Raises: UserError for a list of another length than the layers, with another kind of attention,
    or with a sliding layer where there is no window.
    """
    kinds, layers = fields["layer_types"], positive(fields, "num_hidden_layers")
    if kinds is not None:
        known = isinstance(kinds, list) and all(str(kind) in KINDS_OF_ATTENTION for kind in kinds)
        if not known or len(kinds) != layers:
            raise error(
                "layer_types does not name each layer's kind of attention.",
                got=kinds,
                allowed=f"{layers} of {', '.join(KINDS_OF_ATTENTION)}",
            )
        implied = [KINDS_OF_ATTENTION[kind] for kind in kinds]
    if window is None and any(implied):
        raise error(
            "A layer has a sliding window of no size.",
            got="layer_types with sliding_attention",
            allowed="a number of tokens in sliding_window",
        )
    return [window if slides else None for slides in implied]


def window_of(fields: Mapping[str, Any]) -> int | None:
    """``sliding_window``, null for none. Raises: UserError where it is no whole number above 0."""
    return None if fields["sliding_window"] is None else positive(fields, "sliding_window")


def slid(architecture: Architecture, windows: Sequence[int | None]) -> Architecture:
    """``architecture`` with a window, or None, for the attention of each layer."""
    blocks = (
        replace(block, sliding_window=windows[i // 2]) if isinstance(block, Attention) else block
        for i, block in enumerate(architecture.blocks)
    )
    return replace(architecture, blocks=tuple(blocks))


def write_windows(architecture: Architecture) -> dict[str, Any]:
    """The fields that say each layer's window; no size where no layer has one."""
    found = windows_of(architecture)
    size = next((window for window in found if window is not None), None)
    return {
        "use_sliding_window": size is not None,
        "layer_types": ["full_attention" if w is None else "sliding_attention" for w in found],
        **({} if size is None else {"sliding_window": size}),
    }


def windows_of(architecture: Architecture) -> list[int | None]:
    """The window of each layer's attention."""
    layers = range(len(architecture.blocks) // 2)
    mixers = [architecture.blocks[2 * layer] for layer in layers]
    return [b.sliding_window if isinstance(b, Attention) else None for b in mixers]
