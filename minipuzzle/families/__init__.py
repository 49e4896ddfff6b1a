"""Names only: one file for each Hugging Face model_type. Config fields in, tensor names out. No
torch, no tensors.

A family is a module with ``FIELDS``, ``architecture(config)``, ``config(architecture, original)``,
``names(architecture)`` and ``extra_files(architecture)``; it is found by its file name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from minipuzzle.arch import Architecture
from minipuzzle.errors import UserError
from minipuzzle.families._others import reasons
from minipuzzle.families._parts import Name, Parts, names_of, single, written

__all__ = ["Family", "Name", "Parts", "find", "known", "names_of", "of", "single", "written"]
BLOCKS = (
    "blocks are Mamba-2, gated DeltaNet, short convolutions, full attention, dense feed-forward and"
    " experts"
)
NEW = "a new family is one file in minipuzzle/families"
NO_FILE = "no field that a block can't compute, but no file here says what its tensors are called"
WITH_EXPERTS = (
    "granitemoehybrid",
    "mixtral",
    "nemotron_h",
    "nemotron_h_puzzle",
    "olmoe",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen3_moe",
    "qwen3_next",
)
OTHERS = (
    "jamba",
    "llava",
    "mamba",
    "mllama",
    "molmo2",
    "nemotron",
    "olmo",
    "pixtral",
    "zamba",
    "zamba2",
)
"""transformers' types that are a letter away from one of ours: other models, not slips."""


class Family(Protocol):
    """What a family's module offers."""

    FIELDS: Mapping[str, Any]
    """The fields of config.json that its class of transformers reads, with the class's defaults
    (None: has none here).

    ``architecture`` sees no other field, so that a leftover of another family changes nothing.
    """

    def architecture(self, config: dict[str, Any]) -> Architecture:
        """The architecture that a config.json describes. Raises: UserError for what it cannot
        mean.
        """

    def config(self, architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
        """The config.json of an architecture; fields of ``original`` that do not concern shapes are
        kept.
        """

    def names(self, architecture: Architecture) -> dict[str, tuple[Name, ...]]:
        """Canonical tensor name -> how a file may hold it. The first is written, unless the source
        held such a tensor in another of these forms (``Parts``).
        """

    def extra_files(self, architecture: Architecture) -> dict[str, str]:
        """Python files that a checkpoint must carry for other engines to read it."""


def copied(family: Family) -> tuple[str, ...]:
    """How the names begin of tensors that are no part of the text, such as a vision part's: they
    are copied as they are. A family that has any says so in ``COPIED``.
    """
    found: tuple[str, ...] = getattr(family, "COPIED", ())
    return found


def known() -> list[str]:
    """Every model_type there is a family for."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def find(model_type: str) -> Family:
    """The family of a model_type. Raises: UserError naming the known, and the one that was meant
    where it is a slip.
    """
    if model_type not in known():
        raise UserError(
            f"Unknown model_type {model_type!r}.",
            got=model_type or "no model_type",
            allowed=", ".join(known()),
            next=_advice(model_type),
        )
    return cast(Family, importlib.import_module(f"minipuzzle.families.{model_type}"))


def of(config: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises: UserError as ``find``; of another model than ours with
    what it has that no block computes, as far as its fields and its type say.
    """
    model_type = str(config.get("model_type", ""))
    lacks = [] if model_type in known() else reasons(config)
    a_model = model_type and "vocab_size" in config and not _meant(model_type)
    if model_type in known() or not (lacks or a_model):
        return find(model_type)
    raise UserError(
        f"Models of type {model_type!r} are not supported.",
        got="; ".join(lacks) or NO_FILE,
        allowed=", ".join(known()),
        next=_text_alone(config) or _instead(model_type),
    )


def _text_alone(config: Mapping[str, Any]) -> str:
    text = config.get("text_config")
    if not isinstance(text, Mapping) or text.get("model_type") not in known():
        return ""
    return f"Save its text, a {text['model_type']!r}, as a checkpoint of its own."


def _advice(model_type: str) -> str:
    if not model_type:
        return "Add the model_type to config.json."
    if meant := _meant(model_type):
        return f"If {meant!r} is meant, write that in config.json."
    return _instead(model_type)


def _meant(model_type: str) -> str | None:
    """The type that a slip of spelling means."""
    slips = _slips(model_type)
    meant = (name for name in known() if slips & _slips(name))
    return None if model_type in OTHERS else next(meant, None)


def _instead(model_type: str) -> str:
    if "moe" in model_type:
        return f"Mixtures of experts are read of {', '.join(WITH_EXPERTS)}; {NEW}."
    return f"Take a model of one of these types, whose {BLOCKS}; {NEW}."


def _slips(model_type: str) -> set[str]:
    """The name without case and separators, and that with a letter left out: names that share one
    are a slip apart.
    """
    plain = "".join(character for character in model_type.lower() if character.isalnum())
    left_out = (plain[:i] + plain[i + 1 :] for i, letter in enumerate(plain) if letter.isalpha())
    return {plain, *left_out}
