"""Qwen 2 and 2.5: Llama with a bias in q, k and v."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import flag, own, positive, whole
from minipuzzle.families._layers import LAYER_FIELDS
from minipuzzle.families._windows import slid, window_of, windows, write_windows
from minipuzzle.families.llama import FIXED_HEADS, extra_files, names, read, write

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = LAYER_FIELDS | {
    "intermediate_size": None,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``."""
    fields = own(config, FIELDS)
    return slid(read(fields, bias=True, rules=FIXED_HEADS), late_windows(fields))


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    return write(architecture, original, "qwen2", "Qwen2ForCausalLM", **write_windows(architecture))


def late_windows(fields: Mapping[str, Any]) -> list[int | None]:
    """The window of each layer: where no list says it, that of the layers from
    ``max_window_layers`` on.
    """
    window = window_of(fields) if flag(fields, "use_sliding_window") else None
    first, layers = whole(fields, "max_window_layers"), positive(fields, "num_hidden_layers")
    return windows(fields, window, [window is not None and i >= first for i in range(layers)])
