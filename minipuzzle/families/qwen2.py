"""Qwen 2 and 2.5: Llama with a bias in q, k and v."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import windowless
from minipuzzle.families.llama import FIXED_HEADS, extra_files, names, read, write

__all__ = ["architecture", "config", "extra_files", "names"]
DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 32768}


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``."""
    windowless(DEFAULTS | config, window(config))
    return read(DEFAULTS | config, bias=True, rules=FIXED_HEADS)


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    return write(architecture, original, "qwen2", "Qwen2ForCausalLM", **whole(architecture))


def window(config: dict[str, Any]) -> Any:
    """The sliding window of the config, None where no layer has one."""
    layers, first = config.get("num_hidden_layers", 0), config.get("max_window_layers", 28)
    sliding = first < layers if config.get("layer_types") is None else "sliding_attention" in config["layer_types"]
    return config.get("sliding_window", 4096) if config.get("use_sliding_window") and sliding else None


def whole(architecture: Architecture) -> dict[str, Any]:
    """The fields that say that no layer has a window."""
    return {"use_sliding_window": False, "layer_types": ["full_attention"] * (len(architecture.blocks) // 2)}
