"""What the fields of a Nemotron-H config.json say, old names and new, and what they must not say."""

from __future__ import annotations

from typing import Any

from minipuzzle.families._fields import error, only

KINDS = {"M": "mamba", "*": "attention", "-": "mlp"}
ALIASES = {"linear_attention": "mamba", "full_attention": "attention"}
OLD_FIELDS = {
    "mamba_n_groups": "n_groups", "mamba_d_conv": "conv_kernel", "mamba_conv_bias": "use_conv_bias",
    "mamba_chunk_size": "chunk_size", "mamba_dt_limit": "time_step_limit", "layer_types": "layers_block_type",
}  # fmt: skip
ONLY = {"mlp_hidden_act": "relu2", "mamba_hidden_act": "silu", "sliding_window": None}
LETTERS = "M (Mamba-2), - (feed-forward), * (attention)"


def canonical(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields under their new names. Raises: UserError where an old name says something else than the new one."""
    result = {k: v for k, v in fields.items() if k not in OLD_FIELDS}
    for old, new in OLD_FIELDS.items():
        if old not in fields:
            continue
        if fields.get(new) is not None and fields[new] != fields[old]:
            raise error(f"{old} and {new} contradict each other.", got=f"{fields[old]} and {fields[new]}", allowed="one value")
        result[new] = fields[old]
    if "rms_norm_eps" in fields:
        result.setdefault("layer_norm_epsilon", fields["rms_norm_eps"])
    return result


def layers(fields: dict[str, Any]) -> list[str]:
    """The kind of each block: from the pattern, the list of types or ``block_configs``, which must agree.

    Raises: UserError for an unknown letter or kind, another length than ``num_hidden_layers``, or a contradiction.
    """
    said: dict[str, list[str]] = {}
    if fields.get("hybrid_override_pattern") is not None:
        said["hybrid_override_pattern"] = _from_pattern(fields["hybrid_override_pattern"])
    if fields.get("layers_block_type") is not None:
        said["layers_block_type"] = _from_list("layers_block_type", fields["layers_block_type"])
    if fields.get("block_configs"):
        said["block_configs"] = _from_list("block_configs", _types(fields["block_configs"]))
    if not said:
        raise error("The config does not say which blocks the model has.", got="no pattern",
                    allowed="hybrid_override_pattern, layers_block_type or block_configs")  # fmt: skip
    first, kinds = next(iter(said.items()))
    count = fields.get("num_hidden_layers")
    count = len(kinds) if count is None else count
    for name, theirs in said.items():
        unit = "letters" if name == "hybrid_override_pattern" else "entries"
        if len(theirs) != count or not theirs:
            raise error(f"The pattern's length is not the number of layers: {name}.", got=f"{len(theirs)} {unit}",
                        allowed=f"{count} (num_hidden_layers, or what {first} says)")  # fmt: skip
        if theirs != kinds:
            position = next(i for i, pair in enumerate(zip(kinds, theirs, strict=True)) if pair[0] != pair[1])
            raise error(f"{first} and {name} contradict each other at position {position}.", got=theirs[position],
                        allowed=kinds[position])  # fmt: skip
    return kinds


def supported(fields: dict[str, Any]) -> None:
    """Raises: UserError for an option of a block that this model does not have."""
    only(fields, ONLY)


def _from_pattern(pattern: Any) -> list[str]:
    if not isinstance(pattern, str):
        raise error("hybrid_override_pattern is not text.", got=pattern, allowed=LETTERS)
    for position, letter in enumerate(pattern):
        if letter not in KINDS:
            moe = " (mixture-of-experts blocks are not supported yet)" if letter == "E" else ""
            raise error(f"Unknown letter {letter!r} at position {position} of hybrid_override_pattern{moe}.", got=pattern,
                        allowed=LETTERS)  # fmt: skip
    return [KINDS[letter] for letter in pattern]


def _from_list(name: str, listed: Any) -> list[str]:
    if not isinstance(listed, list):
        raise error(f"{name} is not a list.", got=listed, allowed="one entry for each block")
    kinds = [ALIASES.get(kind, kind) if isinstance(kind, str) else kind for kind in listed]
    for position, kind in enumerate(kinds):
        if kind not in KINDS.values():
            moe = " (mixture-of-experts blocks are not supported yet)" if kind == "moe" else ""
            raise error(f"Unknown kind {kind!r} at position {position} of {name}{moe}.", got=kind,
                        allowed=", ".join(sorted(KINDS.values())))  # fmt: skip
    return kinds


def _types(block_configs: Any) -> list[Any]:
    if not isinstance(block_configs, list) or not all(isinstance(own, dict) for own in block_configs):
        raise error("block_configs is not a list of objects.", got=str(block_configs)[:80], allowed="one object for each block")
    return [own.get("block_type") for own in block_configs]
