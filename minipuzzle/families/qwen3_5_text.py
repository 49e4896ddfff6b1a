"""The text of Qwen 3.5 (dense), a checkpoint of its own."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import _qwen3_5
from minipuzzle.families._parts import Name
from minipuzzle.families.llama import extra_files

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = _qwen3_5.FIELDS | {"intermediate_size": None}


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``_qwen3_5.read``."""
    return _qwen3_5.read(config, FIELDS)


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``_qwen3_5.write``."""
    return _qwen3_5.write(architecture, original, "qwen3_5_text", "Qwen3_5ForCausalLM")


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> how a file holds it."""
    return _qwen3_5.names(architecture, "model.")
