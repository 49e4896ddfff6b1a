"""Names only: one file for each Hugging Face model_type. Config fields in, tensor names out. No torch, no tensors.

A family is a module with ``architecture(config)``, ``config(architecture, original)``, ``names(architecture)`` and
``extra_files(architecture)``; it is found by its file name.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any, Protocol, cast

from minipuzzle.arch import Architecture
from minipuzzle.errors import UserError


class Family(Protocol):
    """What a family's module offers."""

    def architecture(self, config: dict[str, Any]) -> Architecture:
        """The architecture that a config.json describes. Raises: UserError for what it cannot mean."""

    def config(self, architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
        """The config.json of an architecture; fields of ``original`` that do not concern shapes are kept."""

    def names(self, architecture: Architecture) -> dict[str, tuple[str, ...]]:
        """Canonical tensor name -> the names a file may use; the first one is written."""

    def extra_files(self, architecture: Architecture) -> dict[str, str]:
        """Python files that a checkpoint must carry for other engines to read it."""


def known() -> list[str]:
    """Every model_type there is a family for."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def find(model_type: str) -> Family:
    """The family of a model_type. Raises: UserError naming the known and the nearest."""
    if model_type not in known():
        near = difflib.get_close_matches(model_type, known(), n=1, cutoff=0.0)[0]
        raise UserError(
            f"Unknown model_type {model_type!r}.", got=model_type or "no model_type", allowed=", ".join(known()),
            next=(f"The nearest is {near!r}; a new family is one file in minipuzzle/families." if model_type
                  else "Add the model_type to config.json."),
        )  # fmt: skip
    return cast(Family, importlib.import_module(f"minipuzzle.families.{model_type}"))
