"""What the fields of a Nemotron-H config.json say, old names and new, and what they must not
say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle.families._fields import (
    activation,
    divides,
    epsilon,
    error,
    limitless,
    number,
    only,
    own,
    whole,
)

KINDS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
ALIASES = {"linear_attention": "mamba", "full_attention": "attention"}
FIELDS: dict[str, Any] = {
    "vocab_size": None,
    "hidden_size": None,
    "intermediate_size": None,
    "num_attention_heads": None,
    "mamba_num_heads": None,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "mlp_hidden_act": "relu2",
    "mlp_bias": False,
    "ssm_state_size": 128,
    "mamba_head_dim": 64,
    "mamba_hidden_act": "silu",
    "n_groups": 8,
    "conv_kernel": 4,
    "use_conv_bias": True,
    "use_bias": False,
    "chunk_size": 128,
    "time_step_min": 0.001,
    "time_step_limit": (0.0, float("inf")),
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 4096,
    "n_routed_experts": None,
    "num_experts_per_tok": None,
    "moe_intermediate_size": None,
    "moe_shared_expert_intermediate_size": None,
    "moe_latent_size": None,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "sliding_window": None,
    "num_hidden_layers": None,
    "hybrid_override_pattern": None,
    "layers_block_type": None,
    "block_configs": None,
    "num_nextn_predict_layers": 0,
    "mtp_hybrid_override_pattern": None,
    "mtp_layers_block_type": None,
    "mtp_block_configs": None,
    "rms_norm_eps": None,
}
"""What the class reads and its defaults, None for a model's sizes; and what is refused where it
says something else.
"""
OLD_FIELDS = {
    "mamba_n_groups": "n_groups",
    "mamba_d_conv": "conv_kernel",
    "mamba_conv_bias": "use_conv_bias",
    "mamba_chunk_size": "chunk_size",
    "mamba_dt_limit": "time_step_limit",
    "mamba_dt_min": "time_step_min",
    "layer_types": "layers_block_type",
    "num_local_experts": "n_routed_experts",
}
LEAST_STEP = 0.001
SHARED = {
    "vocab_size",
    "hidden_size",
    "layer_norm_epsilon",
    "rms_norm_eps",
    "max_position_embeddings",
}
LETTERS = "M (Mamba-2), - (feed-forward), E (experts), * (attention)"


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``FIELDS``. Raises: UserError where an old name says something else than the
    new one.
    """
    result = renamed(config)
    # NVIDIA's first name of it, which transformers does not read
    if "attention_head_dim" in config:
        result.setdefault("head_dim", config["attention_head_dim"])
    fields = own(result, FIELDS)
    if fields["rms_norm_eps"] not in (None, epsilon(fields, "layer_norm_epsilon")):
        raise error(
            "rms_norm_eps and layer_norm_epsilon contradict each other.",
            got=f"{fields['rms_norm_eps']} and {fields['layer_norm_epsilon']}",
            allowed="layer_norm_epsilon alone: transformers reads no other",
        )
    return fields


def renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its old names replaced. Raises: UserError where one says something else than
    the new one.
    """
    result = {k: v for k, v in config.items() if k not in OLD_FIELDS}
    for old, new in OLD_FIELDS.items():
        if old not in config:
            continue
        if config.get(new) is not None and config[new] != config[old]:
            raise error(
                f"{old} and {new} contradict each other.",
                got=f"{config[old]} and {config[new]}",
                allowed="one value",
            )
        result[new] = config[old]
    return result


def of_block(fields: dict[str, Any], block_config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one block, those of its entry in ``block_configs`` first.

    Raises: UserError where the entry changes what all blocks share.
    """
    given = renamed({k: v for k, v in block_config.items() if v is not None})
    said = {k: v for k, v in given.items() if k in FIELDS}
    for name in SHARED & set(said):
        if said[name] != fields[name]:
            raise error(
                f"{name} of one block is not supported.",
                got=said[name],
                allowed=f"{fields[name]}, as for all",
            )
    return fields | said


def layers(fields: Mapping[str, Any]) -> list[str]:
    """The kind of each block: from the pattern, the list of types or ``block_configs``, which must
    agree.

    Raises: UserError for an unknown letter or kind, another length than ``num_hidden_layers``, or a
    contradiction.
    """
    said = _said(fields, "hybrid_override_pattern", "layers_block_type", "block_configs")
    if not said:
        raise error(
            "The config does not say which blocks the model has.",
            got="no pattern",
            allowed="hybrid_override_pattern, layers_block_type or block_configs",
        )
    return _agreed(said, fields.get("num_hidden_layers"), "num_hidden_layers")


def mtp_layers(fields: Mapping[str, Any]) -> list[str]:
    """The kind of each block of a step of multi-token prediction; of transformers' default where
    nothing says it, but [] where the config has no experts, which the default has.

    Raises: as ``layers``.
    """
    said = _said(fields, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    if not said and fields["mtp_block_configs"]:
        kinds = _from_list("mtp_block_configs", _types("mtp_block_configs", fields))
        steps = whole(fields, "num_nextn_predict_layers", least=1)
        divides("The number of mtp_block_configs", len(kinds), "num_nextn_predict_layers", steps)
        return kinds[: len(kinds) // steps]
    if not said:
        return [] if fields["n_routed_experts"] is None else ["attention", "moe"]
    return _agreed(said, None, "")


def _said(fields: Mapping[str, Any], *names: str) -> dict[str, list[str]]:
    """The kinds of blocks by each field that says them: a pattern, a list, a list of objects."""
    pattern, types, *objects = names
    said = {}
    if fields.get(pattern) is not None:
        said[pattern] = _from_pattern(pattern, fields[pattern])
    if fields.get(types) is not None:
        said[types] = _from_list(types, fields[types])
    for name in objects:
        if fields.get(name):
            said[name] = _from_list(name, _types(name, fields))
    return said


def _agreed(said: dict[str, list[str]], count: Any, counted: str) -> list[str]:
    first, kinds = next(iter(said.items()))
    count = len(kinds) if count is None else count
    for name, theirs in said.items():
        unit = "letters" if name.endswith("pattern") else "entries"
        if len(theirs) != count or not theirs:
            raise error(
                f"The pattern's length is not the number of layers: {name}.",
                got=f"{len(theirs)} {unit}",
                allowed=f"{count} ({counted or first}, or what {first} says)",
            )
        if theirs != kinds:
            position = next(
                i for i, pair in enumerate(zip(kinds, theirs, strict=True)) if pair[0] != pair[1]
            )
            raise error(
                f"{first} and {name} contradict each other at position {position}.",
                got=theirs[position],
                allowed=kinds[position],
            )
    return kinds


def supported(fields: Mapping[str, Any]) -> None:
    """Raises: UserError for an option of a block that this model does not have."""
    activation(fields, "mlp_hidden_act", "relu2")
    activation(fields, "mamba_hidden_act", "silu")
    only(fields, {"sliding_window": None})
    limitless(fields)
    # transformers 5.16-5.23 clamp dt there, NVIDIA's code nowhere
    if number(fields, "time_step_min") > LEAST_STEP:
        raise error(
            "time_step_min is not supported.",
            got=fields["time_step_min"],
            allowed=f"at most {LEAST_STEP}",
        )


def _from_pattern(name: str, pattern: Any) -> list[str]:
    if not isinstance(pattern, str):
        raise error(f"{name} is not text.", got=pattern, allowed=LETTERS)
    for position, letter in enumerate(pattern):
        if letter not in KINDS:
            raise error(
                f"Unknown letter {letter!r} at position {position} of {name}.",
                got=pattern,
                allowed=LETTERS,
            )
    return [KINDS[letter] for letter in pattern]


def _from_list(name: str, listed: Any) -> list[str]:
    if not isinstance(listed, list):
        raise error(f"{name} is not a list.", got=listed, allowed="one entry for each block")
    kinds = [ALIASES.get(kind, kind) if isinstance(kind, str) else kind for kind in listed]
    for position, kind in enumerate(kinds):
        if kind not in KINDS.values():
            raise error(
                f"Unknown kind {kind!r} at position {position} of {name}.",
                got=kind,
                allowed=", ".join(sorted(KINDS.values())),
            )
    return kinds


def _types(name: str, fields: Mapping[str, Any]) -> list[Any]:
    said = fields[name]
    if not isinstance(said, list) or not all(isinstance(own, dict) for own in said):
        raise error(
            f"{name} is not a list of objects.",
            got=str(said)[:80],
            allowed="one object for each block",
        )
    return [own.get("block_type") for own in said]
