"""Reading a config.json's fields: what is missing, impossible or not supported is an error that
says so.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from minipuzzle.errors import UserError
from minipuzzle.kinds import Block

B = TypeVar("B", bound=Block)

EVERY_CLASS = ("per_layer_config", "is_causal")
"""What transformers reads for any class, and no block here computes: sizes that differ by layer,
attention to both sides.
"""
CONTRADICTED = (
    "auto_map",
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "time_step_limit",
    *EVERY_CLASS,
)
"""Fields that a config is written without, unless its family writes them anew: another class's, or
of other shapes.
"""
SAME = {"silu": ("silu", "swish"), "relu2": ("relu2",)}
"""The names that transformers has for an activation."""


def own(config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``fields``, those that a family's class reads: config.json's, or the class's
    default in ``fields``.

    What is not in ``fields`` is not in the result, so that a leftover which the class does not read
    can't be obeyed.
    Raises: UserError for what every class reads and nothing here computes.
    """
    if config.get("per_layer_config"):
        raise error(
            "per_layer_config is not supported.",
            got=config["per_layer_config"],
            allowed="layers of one size",
        )
    only(config, {"is_causal": True})
    return {name: config.get(name, default) for name, default in fields.items()}


def kept(original: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json to be written takes over from its parent's: all that can't contradict
    it.
    """
    return {name: value for name, value in original.items() if name not in CONTRADICTED}


def positive(fields: Mapping[str, Any], name: str) -> int:
    """A whole number above 0. Raises: UserError where the field is anything else, or absent and
    without a default.
    """
    return whole(fields, name, least=1)


MOST = {"num_hidden_layers": 100_000, "num_nextn_predict_layers": 100}
"""Each makes a block here, before any weight is seen. Other numbers are below 2^40."""


def whole(fields: Mapping[str, Any], name: str, least: int = 0) -> int:
    """A whole number from ``least`` on. Raises: UserError where the field is anything else, absent
    or larger than any model's.
    """
    value, most = fields.get(name), MOST.get(name, 1 << 40)
    if type(value) is not int or value < least:
        raise error(
            f"{name} is missing or not a {'positive ' if least else ''}whole number.",
            got=value,
            allowed=f"a whole number {'above 0' if least else 'from 0'}",
        )
    if value > most:
        raise error(f"{name} is larger than any model's.", got=value, allowed=f"at most {most:,}")
    return value


def number(fields: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A number above 0; null and absent mean ``default``. Raises: UserError where the field is
    anything else, or absent without a default.
    """
    value = default if fields.get(name) is None else fields[name]
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not (0 < value <= sys.float_info.max)  # a whole number may have 400 digits
    ):
        raise error(f"{name} is not a positive number.", got=value, allowed="a number above 0")
    return float(value)


def flag(fields: Mapping[str, Any], name: str) -> bool:
    """True or false. Raises: UserError where the field is anything else, such as a number or the
    word "false".
    """
    value = fields.get(name)
    if not isinstance(value, bool):
        raise error(f"{name} is not true or false.", got=repr(value), allowed="true, false")
    return value


def epsilon(fields: Mapping[str, Any], name: str) -> float:
    """An RMS norm's epsilon. Raises: UserError where it is not from 0 to 1."""
    value = fields.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise error(f"{name} is not a small number.", got=value, allowed="a number from 0 to 1")
    return float(value)


def divides(name: str, value: int, by_name: str, by: int) -> None:
    """Raises: UserError where ``value`` is no multiple of ``by``."""
    if value % by:
        raise error(
            f"{name} must be a multiple of {by_name}.",
            got=f"{value} and {by}",
            allowed=f"a multiple of {by}",
        )


def only(fields: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
    """Raises: UserError for a field that is there with another value than the one allowed."""
    for name, value in allowed.items():
        if fields.get(name, value) != value:
            raise error(f"{name} is not supported.", got=fields[name], allowed=repr(value))


def activation(fields: Mapping[str, Any], name: str, computed: str) -> None:
    """Raises: UserError for another activation than ``computed``, by whichever of its names."""
    if fields.get(name) not in SAME[computed]:
        raise error(
            f"{name} is not supported.",
            got=fields.get(name),
            allowed=" or ".join(map(repr, SAME[computed])),
        )


def limitless(fields: Mapping[str, Any]) -> None:
    """Raises: UserError where dt is clamped to another range than (0, inf), which our forward does
    not do.
    """
    limit = fields.get("time_step_limit")
    bounds = (
        [b.get("__float__") if isinstance(b, dict) else b for b in limit]
        if isinstance(limit, list | tuple)
        else []
    )
    if [str(b).lower() for b in bounds] not in (
        ["0.0", "inf"],
        ["0.0", "infinity"],
        ["0", "inf"],
        ["0", "infinity"],
    ):
        raise error("time_step_limit is not supported.", got=limit, allowed="[0.0, Infinity]")


def possible(block: B) -> B:
    """``block``. Raises: UserError where its sizes contradict each other."""
    if (fault := block.fault()) is not None:
        raise error(
            f"The sizes of a {block.kind} block contradict each other.",
            got=fault[0],
            allowed=fault[1],
        )
    return block


def error(what: str, *, got: object, allowed: object) -> UserError:
    """A fault of config.json."""
    return UserError(
        what, got=got, allowed=allowed, next="Fix config.json, or take another checkpoint."
    )
