"""Mistral: Llama without biases. A sliding window that is active is refused."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import own, positive, windowless
from minipuzzle.families._layers import LAYER_FIELDS
from minipuzzle.families.llama import extra_files, names, read, write

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = LAYER_FIELDS | {
    "intermediate_size": None,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``; transformers' default for an absent window is 4096 tokens."""
    fields = own(config, FIELDS)
    positive(fields, "num_key_value_heads")  # null is none of its values
    if fields["sliding_window"] is not None:
        windowless(fields, fields["sliding_window"])
    return read(fields)


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    return write(
        architecture,
        original,
        "mistral",
        "MistralForCausalLM",
        sliding_window=original.get("sliding_window"),
    )
