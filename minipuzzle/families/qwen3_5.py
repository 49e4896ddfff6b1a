"""Qwen 3.5 (dense) and its vision part, which is copied as it is."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import _qwen3_5
from minipuzzle.families._parts import Name
from minipuzzle.families._qwen3_5_parts import COPIED, FIELDS, ROOT, read, write
from minipuzzle.families.llama import extra_files

__all__ = ["COPIED", "FIELDS", "architecture", "config", "extra_files", "names"]


def architecture(config: dict[str, Any]) -> Architecture:
    """That of the text. Raises: UserError as ``_qwen3_5_parts.read``."""
    return read(config, "qwen3_5")


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``_qwen3_5_parts.write``."""
    return write(architecture, original, "qwen3_5", "Qwen3_5ForConditionalGeneration")


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> how a file holds it."""
    return _qwen3_5.names(architecture, ROOT)
