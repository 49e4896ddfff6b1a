"""Qwen 3 (dense): Llama with a norm on each query's and key's head."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import windowless
from minipuzzle.families.llama import biases, extra_files, names, read, write
from minipuzzle.families.qwen2 import DEFAULTS, whole, window

__all__ = ["architecture", "config", "extra_files", "names"]


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``; transformers' default for an absent head_dim is 128."""
    windowless(DEFAULTS | config, window(config))
    bias = bool(config.get("attention_bias", False))
    return read({"head_dim": 128, **DEFAULTS, **config}, bias=bias, out_bias=bias, qk_norm=True)


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    own = {**whole(architecture), "attention_bias": biases(architecture)["attention_bias"]}
    return write(architecture, original, "qwen3", "Qwen3ForCausalLM", **own)
