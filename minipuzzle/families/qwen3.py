"""Qwen 3 (dense): Llama with a norm on each query's and key's head."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import qwen2
from minipuzzle.families._fields import flag, own, positive
from minipuzzle.families._windows import slid, write_windows
from minipuzzle.families.llama import biases, extra_files, names, read, write

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = qwen2.FIELDS | {"head_dim": 128, "attention_bias": False}


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``; transformers' default for an absent head_dim is 128."""
    fields = own(config, FIELDS)
    positive(fields, "head_dim")  # null is none of its values
    bias = flag(fields, "attention_bias")
    return slid(read(fields, bias=bias, out_bias=bias, qk_norm=True), qwen2.late_windows(fields))


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    bias = biases(architecture)["attention_bias"]
    return write(
        architecture,
        original,
        "qwen3",
        "Qwen3ForCausalLM",
        attention_bias=bias,
        **write_windows(architecture),
    )
