"""Mistral: Llama without biases, all layers with one sliding window, or none."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import own, positive
from minipuzzle.families._layers import LAYER_FIELDS
from minipuzzle.families._windows import slid, window_of, windows_of
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
    result = read(fields)
    return slid(result, [window_of(fields)] * len(result.blocks))


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    window = next(iter(windows_of(architecture)), None)
    return write(architecture, original, "mistral", "MistralForCausalLM", sliding_window=window)
