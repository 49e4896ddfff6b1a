"""The text of Qwen 3.5 with experts, a checkpoint of its own."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import _qwen3_5
from minipuzzle.families._parts import Name
from minipuzzle.families.llama import extra_files

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = _qwen3_5.FIELDS | {
    "num_key_value_heads": 2,
    "num_experts": None,
    "num_experts_per_tok": None,
    "moe_intermediate_size": None,
    "shared_expert_intermediate_size": 512,
}


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``_qwen3_5.read``."""
    return _qwen3_5.read(config, FIELDS)


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``_qwen3_5.write``."""
    return _qwen3_5.write(architecture, original, "qwen3_5_moe_text", "Qwen3_5MoeForCausalLM")


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> how a file holds it."""
    return _qwen3_5.names(architecture, "model.")
