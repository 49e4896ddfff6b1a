"""Qwen 2 and 2.5: Llama with a bias in q, k and v."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import flag, own, positive, slides, whole, windowless
from minipuzzle.families._layers import LAYER_FIELDS
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
    full_attention(fields)
    return read(fields, bias=True, rules=FIXED_HEADS)


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    return write(architecture, original, "qwen2", "Qwen2ForCausalLM", **no_window(architecture))


def full_attention(fields: Mapping[str, Any]) -> None:
    """Raises: UserError where a layer has a window that is shorter than the longest context."""
    window = fields["sliding_window"] if flag(fields, "use_sliding_window") else None
    late = whole(fields, "max_window_layers") < positive(fields, "num_hidden_layers")
    if slides(fields, implied=window is not None and late):
        windowless(fields, window)


def no_window(architecture: Architecture) -> dict[str, Any]:
    """The fields that say that no layer has a window."""
    return {
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * (len(architecture.blocks) // 2),
    }
