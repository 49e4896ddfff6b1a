"""Qwen 3.5 with its vision part: the text is that of ``text_config``, all else is copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minipuzzle import families
from minipuzzle.arch import Architecture
from minipuzzle.families import llama
from minipuzzle.families._fields import error, kept, own
from minipuzzle.families._layers import checked

FIELDS: dict[str, Any] = {"text_config": None, "vision_config": None, "tie_word_embeddings": False}
COPIED = ("model.visual.",)
ROOT = "model.language_model."
RULES = replace(llama.RULES, fixed=("hidden",))
"""The vision part ends in the hidden size."""


def read(config: dict[str, Any], model_type: str) -> Architecture:
    """The architecture of the text. Raises: UserError as that of its type, and for a config without
    one.
    """
    own(config, FIELDS)
    said, text = config.get("text_config"), f"{model_type}_text"
    if not isinstance(said, Mapping) or said.get("model_type", text) != text:
        raise error(
            "text_config is not the text's config.",
            got=said["model_type"] if isinstance(said, Mapping) else said,
            allowed=f"an object of model_type {text}",
        )
    tied = {name: config[name] for name in ("tie_word_embeddings",) if name in config}
    return replace(families.find(text).architecture({**said, **tied}), rules=RULES)


def write(
    architecture: Architecture, original: dict[str, Any], model_type: str, model_class: str
) -> dict[str, Any]:
    """``original`` with the text's fields written anew. Raises: UserError for an architecture that
    no such config can say.
    """
    before = dict(original.get("text_config") or {})
    alone = replace(architecture, rules=llama.RULES)
    said = families.find(f"{model_type}_text").config(alone, before)
    if "architectures" not in before:
        del said["architectures"]
    result = kept(original) | {
        "model_type": model_type,
        "architectures": [model_class],
        "text_config": said,
        "tie_word_embeddings": architecture.tied_head,
    }
    return checked(result, architecture)
