"""Reading a config.json's fields: what is missing, impossible or not supported is an error that says so."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

from minipuzzle.arch import ROPE_KINDS, Rope
from minipuzzle.errors import UserError


def positive(fields: dict[str, Any], name: str, default: int | None = None) -> int:
    """A whole number above 0. Raises: UserError where the field is anything else, or absent without a default."""
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise error(f"{name} is missing or not a positive whole number.", got=value, allowed="a whole number above 0")
    return value


def number(fields: dict[str, Any], name: str, default: float | None = None) -> float:
    """A number above 0; null and absent mean ``default``. Raises: UserError where the field is anything else, or absent
    without a default."""
    value = default if fields.get(name) is None else fields[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise error(f"{name} is not a positive number.", got=value, allowed="a number above 0")
    return float(value)


def epsilon(fields: dict[str, Any], name: str, default: float) -> float:
    """An RMS norm's epsilon. Raises: UserError where it is not from 0 to 1."""
    value = fields.get(name, default)
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise error(f"{name} is not a small number.", got=value, allowed="a number from 0 to 1")
    return float(value)


def divides(name: str, value: int, by_name: str, by: int) -> None:
    """Raises: UserError where ``value`` is no multiple of ``by``."""
    if value % by:
        raise error(f"{name} must be a multiple of {by_name}.", got=f"{value} and {by}", allowed=f"a multiple of {by}")


def only(fields: dict[str, Any], allowed: dict[str, Any]) -> None:
    """Raises: UserError for a field that is there with another value than the one allowed."""
    for name, value in allowed.items():
        if fields.get(name, value) != value:
            raise error(f"{name} is not supported.", got=fields[name], allowed=repr(value))


def limitless(fields: dict[str, Any]) -> None:
    """Raises: UserError where dt is clamped to another range than (0, inf), which our forward does not do."""
    limit = fields.get("time_step_limit")
    if limit is None:
        return
    bounds = [b.get("__float__") if isinstance(b, dict) else b for b in limit] if isinstance(limit, list | tuple) else []
    if [str(b).lower() for b in bounds] not in (["0.0", "inf"], ["0.0", "infinity"], ["0", "inf"], ["0", "infinity"]):
        raise error("time_step_limit is not supported.", got=limit, allowed="[0.0, Infinity]")


def windowless(fields: dict[str, Any], window: Any) -> None:
    """Raises: UserError where a sliding window cuts attention short before the longest context."""
    longest = positive(fields, "max_position_embeddings", 2048)
    if window is not None and (not isinstance(window, int) or window < longest):
        raise UserError(
            "Attention with a sliding window is not supported.", got=f"a window of {window} tokens, {longest} positions",
            allowed="no window, or one that covers max_position_embeddings",
            next="If you use no context longer than the window, set max_position_embeddings to it in config.json.",
        )  # fmt: skip


def read_rope(fields: dict[str, Any], head_dim: int, positions: int, partial: float = 1.0) -> Rope:
    """The rotary embedding of ``rope_parameters`` (transformers 5), ``rope_scaling`` and ``rope_theta`` (before).

    ``partial`` is the family's share of a head's channels that turn. Raises: UserError for an unknown type or a missing
    number.
    """
    said = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    if not isinstance(said, dict):
        raise error("rope_scaling is not an object.", got=said, allowed="an object with rope_type")
    said = {"rope_theta": fields.get("rope_theta"), "partial_rotary_factor": fields.get("partial_rotary_factor"), **said}
    kind = said.get("rope_type", said.get("type", "default"))
    if kind not in ROPE_KINDS:
        raise error("This rope_type is not supported.", got=kind, allowed=", ".join(ROPE_KINDS))
    trained = fields.get("original_max_position_embeddings") or said.get("original_max_position_embeddings") or positions
    dim = int(head_dim * number(said, "partial_rotary_factor", partial))
    divides("the rotated part of head_dim", dim, "2", 2)
    base = Rope(dim=dim, theta=number(said, "rope_theta", 10_000.0), kind=kind)
    return _scaled(base, said, int(trained), positions) if kind != "default" else base


def write_rope(rope: Rope | None, head_dim: int | None = None) -> dict[str, Any]:
    """The fields of a rotary embedding, for transformers before and since version 5. Nothing where there is none.

    With ``head_dim`` also the share of its channels that turn.
    """
    if rope is None:
        return {}
    scaling: dict[str, Any] = {"rope_type": rope.kind}
    if head_dim is not None:
        scaling["partial_rotary_factor"] = rope.dim / head_dim
    if rope.kind != "default":
        scaling["factor"] = rope.factor
    if rope.kind in ("llama3", "yarn"):
        scaling["original_max_position_embeddings"] = rope.original
    if rope.kind == "llama3":
        scaling |= {"low_freq_factor": rope.low, "high_freq_factor": rope.high}
    if rope.kind == "yarn":
        scaling |= {"beta_slow": rope.low, "beta_fast": rope.high, "truncate": rope.truncate,
                    "attention_factor": rope.attention_factor}  # fmt: skip
    whole = {**scaling, "rope_theta": rope.theta}
    return {"rope_theta": rope.theta, "rope_scaling": None if rope.kind == "default" else whole, "rope_parameters": whole}


def error(what: str, *, got: object, allowed: object) -> UserError:
    """A fault of config.json."""
    return UserError(what, got=got, allowed=allowed, next="Mend config.json, or take another checkpoint.")


def _scaled(base: Rope, said: dict[str, Any], trained: int, positions: int) -> Rope:
    factor = number(said, "factor", positions / trained) if base.kind == "yarn" else number(said, "factor")
    if base.kind == "llama3":
        low, high = number(said, "low_freq_factor"), number(said, "high_freq_factor")
        return replace(base, factor=factor, original=trained, low=low, high=high)
    if base.kind == "yarn":
        usual = 0.1 * log(factor) + 1 if factor > 1 else 1.0
        if said.get("mscale") and said.get("mscale_all_dim") and factor > 1:
            usual = (0.1 * said["mscale"] * log(factor) + 1) / (0.1 * said["mscale_all_dim"] * log(factor) + 1)
        return replace(
            base, factor=factor, original=trained, low=number(said, "beta_slow", 1), high=number(said, "beta_fast", 32),
            truncate=bool(said.get("truncate", True)), attention_factor=number(said, "attention_factor", usual),
        )  # fmt: skip
    return replace(base, factor=factor, original=positions if base.kind == "dynamic" else 0)
