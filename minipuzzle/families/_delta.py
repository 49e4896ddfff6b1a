"""What families share some of whose layers are gated DeltaNet: Qwen3-Next, OLMo Hybrid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import activation, divides, error, positive
from minipuzzle.families._layers import first
from minipuzzle.kinds import DeltaNet

LINEAR, FULL = "linear_attention", "full_attention"
DELTA_FIELDS: dict[str, Any] = {
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "layer_types": None,
}
"""What classes read of such a layer, with Qwen's defaults."""


def read_delta(fields: Mapping[str, Any], hidden: int, **options: Any) -> DeltaNet:
    """The block of ``DELTA_FIELDS``; ``options`` are the family's own."""
    activation(fields, "hidden_act", "silu")
    keys, values = (positive(fields, f"linear_num_{name}_heads") for name in ("key", "value"))
    divides("linear_num_value_heads", values, "linear_num_key_heads", keys)
    return DeltaNet(
        hidden=hidden,
        key_groups=keys,
        group_heads=values // keys,
        key_dim=positive(fields, "linear_key_head_dim"),
        value_dim=positive(fields, "linear_value_head_dim"),
        conv_kernel=positive(fields, "linear_conv_kernel_dim"),
        **options,
    )


def write_delta(architecture: Architecture) -> dict[str, Any]:
    """The fields that ``read_delta`` and ``layer_kinds`` read."""
    found: dict[str, Any] = {
        "layer_types": [
            LINEAR if block.kind == DeltaNet.kind else FULL
            for block in architecture.blocks[: len(architecture.blocks) // 2 * 2 : 2]
        ]
    }
    block = first(architecture, DeltaNet.kind)
    if block is not None:
        found |= {
            "linear_num_key_heads": block.key_groups,
            "linear_num_value_heads": block.heads,
            "linear_key_head_dim": block.key_dim,
            "linear_value_head_dim": block.value_dim,
            "linear_conv_kernel_dim": block.conv_kernel,
        }
    return found


def layer_kinds(fields: Mapping[str, Any], usual: Sequence[str]) -> list[str]:
    """``LINEAR`` or ``FULL`` for each layer; ``usual`` where ``layer_types`` is null. Raises:
    UserError for a list of another length or of other kinds.
    """
    said = fields["layer_types"]
    if said is None:
        return list(usual)
    known = isinstance(said, list) and all(kind in (LINEAR, FULL) for kind in said)
    if not known or len(said) != len(usual):
        raise error(
            "layer_types does not name each layer's kind.",
            got=said,
            allowed=f"{len(usual)} of {LINEAR}, {FULL}",
        )
    return said
