"""The fields of a rotary embedding, old names and new, read as transformers'
``RotaryEmbeddingConfigMixin`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import log
from typing import Any

from minipuzzle.families._fields import divides, error, number, positive
from minipuzzle.kinds import ROPE_KINDS, Rope

ROPE_FIELDS: dict[str, Any] = {
    "rope_theta": 10_000.0,
    "rope_scaling": None,
    "rope_parameters": None,
    "partial_rotary_factor": None,
    "original_max_position_embeddings": None,
}


def read_rope(fields: Mapping[str, Any], head_dim: int, partial: float | None = None) -> Rope:
    """The rotary embedding of ``rope_parameters`` (transformers 5), ``rope_scaling`` and
    ``rope_theta`` (before).

    ``partial`` is the share of a head's channels that turn where ``rope_parameters`` has no other,
    None for a class that turns whole heads: such a one reads a share where the speeds are scaled,
    and then can't turn by it, but not otherwise.
    Raises: UserError for an unknown type, parameters by kind of layer, a missing number, or such a
    share.
    """
    name = "rope_scaling" if fields["rope_scaling"] else "rope_parameters"
    said = fields[name] or {}
    if not isinstance(said, dict) or any(isinstance(value, dict) for value in said.values()):
        raise error(
            f"{name} is not one object for all layers.",
            got=said,
            allowed="an object with rope_type",
        )
    kind = said.get("rope_type", said.get("type", "default"))
    if kind not in ROPE_KINDS:
        raise error("This rope_type is not supported.", got=kind, allowed=", ".join(ROPE_KINDS))
    given = {
        "partial_rotary_factor": fields["partial_rotary_factor"] if partial is None else partial,
        "rope_theta": fields["rope_theta"],
        **said,
    }
    read = partial is not None or (kind != "default" and given["partial_rotary_factor"] is not None)
    dim = int(head_dim * number(given, "partial_rotary_factor")) if read else head_dim
    if dim > head_dim or (dim < head_dim and partial is None):
        raise error(
            "partial_rotary_factor is not supported here.",
            got=given["partial_rotary_factor"],
            allowed="at most 1" if partial is not None else "1: this class turns whole heads",
        )
    if not dim:
        raise error(
            "partial_rotary_factor turns no channel.",
            got=given["partial_rotary_factor"],
            allowed="two at least",
        )
    divides("the rotated part of head_dim", dim, "2", 2)
    base = Rope(dim=dim, theta=number(given, "rope_theta"), kind=str(kind))
    return base if kind == "default" else _scaled(base, given, fields)


def write_rope(rope: Rope | None, head_dim: int | None = None) -> dict[str, Any]:
    """The fields of a rotary embedding, for transformers before and since version 5. Nothing where
    there is none.

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
        scaling |= {
            "beta_slow": rope.low,
            "beta_fast": rope.high,
            "truncate": rope.truncate,
            "attention_factor": rope.attention_factor,
        }
    whole = {**scaling, "rope_theta": rope.theta}
    old = None if rope.kind == "default" else whole
    return {"rope_theta": rope.theta, "rope_scaling": old, "rope_parameters": whole}


def _scaled(base: Rope, said: Mapping[str, Any], fields: Mapping[str, Any]) -> Rope:
    positions = positive(fields, "max_position_embeddings")
    if base.kind == "linear":
        return replace(base, factor=number(said, "factor"))
    if base.kind == "dynamic":
        if base.dim < 4:
            raise error(
                "rope_type dynamic needs more channels that turn.",
                got=base.dim,
                allowed="4 at least",
            )
        return replace(base, factor=number(said, "factor"), original=positions)
    trained = _trained(said, fields, positions)
    if base.kind == "llama3":
        low, high = number(said, "low_freq_factor"), number(said, "high_freq_factor")
        if low >= high:
            raise error(
                "low_freq_factor is not below high_freq_factor.",
                got=f"{low} and {high}",
                allowed=f"below {high}",
            )
        return replace(base, factor=number(said, "factor"), original=trained, low=low, high=high)
    return _yarn(base, said, trained, positions)


def _trained(said: Mapping[str, Any], fields: Mapping[str, Any], positions: int) -> int:
    """The context that the speeds were trained for; a field beside rope_parameters comes before the
    one in it.
    """
    name = "original_max_position_embeddings"
    source = said if fields[name] is None else fields
    value = number(source, name, None if name in source else positions)
    if not value.is_integer():
        raise error(f"{name} is not a whole number.", got=value, allowed="a whole number above 0")
    return int(value)


def _yarn(base: Rope, said: Mapping[str, Any], trained: int, positions: int) -> Rope:
    if base.theta <= 1:
        raise error(
            "rope_theta is too small for rope_type yarn.", got=base.theta, allowed="above 1"
        )
    if "factor" not in said:
        raise error(
            "rope_type yarn has no factor.",
            got=dict(said),
            allowed="a number above 0, or null for the ratio",
        )
    factor = number(said, "factor", positions / trained)
    usual = 0.1 * log(factor) + 1 if factor > 1 else 1.0
    if said.get("mscale") and said.get("mscale_all_dim") and factor > 1:
        scale, all_dim = (
            0.1 * number(said, name) * log(factor) + 1 for name in ("mscale", "mscale_all_dim")
        )
        usual = scale / all_dim
    truncate = said.get("truncate", True)
    if truncate not in (True, False, None):
        raise error("truncate is not true or false.", got=truncate, allowed="true, false")
    return replace(
        base,
        factor=factor,
        original=trained,
        low=number(said, "beta_slow", 1),
        high=number(said, "beta_fast", 32),
        truncate=bool(truncate),
        attention_factor=number(said, "attention_factor", usual),
    )
