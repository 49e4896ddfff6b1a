"""Mistral: Llama without biases. A sliding window that is active is refused."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import windowless
from minipuzzle.families.llama import extra_files, names, read, write

__all__ = ["architecture", "config", "extra_files", "names"]


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``; transformers' default for an absent window is 4096 tokens."""
    config = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096, **config}
    windowless(config, config["sliding_window"])
    return read(config)


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    return write(architecture, original, "mistral", "MistralForCausalLM",
                 sliding_window=original.get("sliding_window"))  # fmt: skip
