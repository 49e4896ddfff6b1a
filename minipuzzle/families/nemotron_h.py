"""Nemotron-H (arXiv:2504.03624): every layer is one block of Mamba-2, relu^2 feed-forward or attention.

Blocks of one kind with different sizes are written as ``block_configs`` under the type ``nemotron_h_puzzle``, the
schema that vLLM, SGLang, TensorRT-LLM and llama.cpp read, with the two classes transformers needs beside it.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from minipuzzle.arch import Architecture, Attention, Block, FeedForward, Mamba2, block_parameters
from minipuzzle.errors import UserError

KINDS = {"M": "mamba", "*": "attention", "-": "mlp"}
ALIASES = {"linear_attention": "mamba", "full_attention": "attention"}
OLD_FIELDS = {"mamba_n_groups": "n_groups", "mamba_d_conv": "conv_kernel", "mamba_conv_bias": "use_conv_bias",
              "mamba_chunk_size": "chunk_size", "rms_norm_eps": "layer_norm_epsilon"}  # fmt: skip
AXIS_FIELDS = {
    "mamba": {"heads": "mamba_num_heads", "head_dim": "mamba_head_dim"},
    "attention": {"q_heads": "num_attention_heads", "kv_heads": "num_key_value_heads"},
    "mlp": {"intermediate": "intermediate_size"},
}
TENSORS = {
    "norm.weight": "norm.weight", "in_proj.weight": "mixer.in_proj.weight", "in_proj.bias": "mixer.in_proj.bias",
    "conv.weight": "mixer.conv1d.weight", "conv.bias": "mixer.conv1d.bias", "dt_bias": "mixer.dt_bias",
    "A_log": "mixer.A_log", "D": "mixer.D", "gated_norm.weight": "mixer.norm.weight",
    "out_proj.weight": "mixer.out_proj.weight", "out_proj.bias": "mixer.out_proj.bias",
    **{f"{p}_proj.{t}": f"mixer.{p}_proj.{t}" for p in ("q", "k", "v", "o", "up", "down") for t in ("weight", "bias")},
}  # fmt: skip
TOP = {
    "embeddings.weight": ("embeddings.weight", "embedding.weight"), "final_norm.weight": ("norm_f.weight",),
}  # fmt: skip
ROOTS = ("backbone", "model")
UNSUPPORTED = {"mlp_hidden_act": "relu2", "mamba_hidden_act": "silu", "sliding_window": None}


def architecture(config: dict[str, Any]) -> Architecture:
    """The architecture of a config.json; fields that are absent have transformers' defaults.

    Raises: UserError for an unknown pattern letter, a pattern of another length, impossible sizes, or an option that
    this model does not have (another activation, a sliding window).
    """
    fields = {**config, **{new: config[old] for old, new in OLD_FIELDS.items() if old in config and new not in config}}
    for name, only in UNSUPPORTED.items():
        if fields.get(name, only) != only:
            raise _error(f"{name} is not supported.", got=fields[name], allowed=repr(only))
    hidden = _positive(fields, "hidden_size")
    blocks = []
    per_block = fields.get("block_configs") or [{} for _ in _layers(fields)]
    for kind, own in zip(_layers(fields), per_block, strict=True):
        blocks.append(_block(kind, {**fields, **{k: v for k, v in own.items() if v is not None}}, hidden))
    return Architecture(
        vocab_size=_positive(fields, "vocab_size"), hidden=hidden, blocks=tuple(blocks),
        norm_eps=float(fields.get("layer_norm_epsilon", 1e-5)),
        tied_head=False,  # tie_word_embeddings is read by no implementation of this family: each has a head of its own
        max_positions=int(fields.get("max_position_embeddings", 4096)),
    )  # fmt: skip


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an architecture, with what transformers, vLLM, SGLang and llama.cpp each look for."""
    result = {k: v for k, v in original.items() if k not in ("time_step_limit", "block_configs", "auto_map", "layer_types")}
    pattern = architecture.pattern
    result |= {
        "model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"], "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden, "layer_norm_epsilon": architecture.norm_eps,
        "tie_word_embeddings": False, "hybrid_override_pattern": pattern,
        "layers_block_type": [KINDS[c] for c in pattern], "num_hidden_layers": len(pattern),
        "max_position_embeddings": architecture.max_positions,
    }  # fmt: skip
    for kind in ("mamba", "attention", "mlp"):
        of_kind = [b for b in architecture.blocks if b.kind == kind]
        if of_kind:
            result |= _sizes(max(of_kind, key=block_parameters))
    if not architecture.homogeneous:
        result |= {
            "model_type": "nemotron_h_puzzle", "architectures": ["NemotronHPuzzleForCausalLM"],
            "auto_map": {
                "AutoConfig": "configuration_nemotron_h_puzzle.NemotronHPuzzleConfig",
                "AutoModelForCausalLM": "modeling_nemotron_h_puzzle.NemotronHPuzzleForCausalLM",
            },
            "block_configs": [_block_config(b) for b in architecture.blocks], "mtp_block_configs": [],
        }  # fmt: skip
    return result


def names(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Canonical name -> accepted names. Written are ``backbone.`` names, as on the hub, but ``model.`` ones where blocks
    of a kind differ: NVIDIA's released puzzle checkpoint has those, and transformers renames only for ``nemotron_h``."""
    roots = ROOTS if architecture.homogeneous else ROOTS[::-1]
    result: dict[str, tuple[str, ...]] = {}
    for tensor in architecture.tensors():
        if tensor.block is not None:
            theirs: tuple[str, ...] = (f"layers.{tensor.block}.{TENSORS[tensor.weight.name]}",)
        elif tensor.name == "head.weight":
            result[tensor.name] = ("lm_head.weight",)
            continue
        else:
            theirs = TOP[tensor.name]
        result[tensor.name] = tuple(f"{root}.{name}" for root in roots for name in theirs)
    return result


def extra_files(architecture: Architecture) -> dict[str, str]:
    """The config and model classes of ``nemotron_h_puzzle``, when blocks of a kind differ."""
    if architecture.homogeneous:
        return {}
    folder = files("minipuzzle.families") / "_shipped"
    return {f"{n}_nemotron_h_puzzle.py": (folder / f"{n}_nemotron_h_puzzle.py").read_text()
            for n in ("configuration", "modeling")}  # fmt: skip


def _layers(fields: dict[str, Any]) -> list[str]:
    pattern, listed = fields.get("hybrid_override_pattern"), fields.get("layers_block_type")
    if pattern is not None:
        for position, letter in enumerate(pattern):
            if letter not in KINDS:
                moe = " (mixture-of-experts blocks are not supported yet)" if letter == "E" else ""
                raise _error(f"Unknown letter {letter!r} at position {position} of hybrid_override_pattern{moe}.",
                             got=pattern, allowed="M (Mamba-2), - (feed-forward), * (attention)")  # fmt: skip
        layers = [KINDS[c] for c in pattern]
    elif listed is not None:
        layers = [ALIASES.get(kind, kind) for kind in listed]
        for position, kind in enumerate(layers):
            if kind not in KINDS.values():
                raise _error(f"Unknown kind {kind!r} at position {position} of layers_block_type.", got=kind,
                             allowed=", ".join(sorted(KINDS.values())))  # fmt: skip
    else:
        raise _error("The config does not say which blocks the model has.", got="no pattern",
                     allowed="hybrid_override_pattern or layers_block_type")  # fmt: skip
    count = fields.get("num_hidden_layers")
    if (count is not None and count != len(layers)) or not layers:
        raise _error("The pattern's length is not the number of layers.", got=f"{len(layers)} letters",
                     allowed=f"{count} (num_hidden_layers)")  # fmt: skip
    return layers


def _block(kind: str, fields: dict[str, Any], hidden: int) -> Block:
    if kind == "mlp":
        width = _positive(fields, "intermediate_size")
        return FeedForward(hidden=hidden, intermediate=width, bias=bool(fields.get("mlp_bias", False)))
    if kind == "attention":
        q = _positive(fields, "num_attention_heads")
        kv = _positive(fields, "num_key_value_heads", q)
        _divides("num_attention_heads", q, "num_key_value_heads", kv)
        head_dim = fields.get("head_dim") or fields.get("attention_head_dim") or hidden // q
        return Attention(hidden=hidden, q_heads=q, kv_heads=kv, attn_head_dim=int(head_dim),
                         bias=bool(fields.get("attention_bias", False)))  # fmt: skip
    heads, groups = _positive(fields, "mamba_num_heads"), _positive(fields, "n_groups", 8)
    _divides("mamba_num_heads", heads, "n_groups", groups)
    return Mamba2(
        hidden=hidden, heads=heads, head_dim=_positive(fields, "mamba_head_dim", 64), groups=groups,
        state=_positive(fields, "ssm_state_size", 128), conv_kernel=_positive(fields, "conv_kernel", 4),
        conv_bias=bool(fields.get("use_conv_bias", True)), chunk_size=_positive(fields, "chunk_size", 128),
        proj_bias=bool(fields.get("use_bias", False)),
    )  # fmt: skip


def _sizes(block: Block) -> dict[str, Any]:
    if isinstance(block, FeedForward):
        return {"intermediate_size": block.intermediate, "mlp_bias": block.bias, "mlp_hidden_act": "relu2"}
    if isinstance(block, Attention):
        return {"num_attention_heads": block.q_heads, "num_key_value_heads": block.kv_heads,
                "head_dim": block.attn_head_dim, "attention_bias": block.bias}  # fmt: skip
    return {
        "mamba_num_heads": block.heads, "mamba_head_dim": block.head_dim, "n_groups": block.groups,
        "mamba_n_groups": block.groups, "ssm_state_size": block.state, "conv_kernel": block.conv_kernel,
        "use_conv_bias": block.conv_bias, "chunk_size": block.chunk_size, "mamba_hidden_act": "silu",
        "mamba_proj_bias": block.proj_bias, "use_bias": block.proj_bias,
    }  # fmt: skip


def _block_config(block: Block) -> dict[str, Any]:
    own = {field: block.sizes[axis] for axis, field in AXIS_FIELDS[block.kind].items()}
    return {"block_type": block.kind, **own}


def _positive(fields: dict[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _error(f"{name} is missing or not a positive whole number.", got=value, allowed="a whole number above 0")
    return value


def _divides(name: str, value: int, by_name: str, by: int) -> None:
    if value % by:
        raise _error(f"{name} must be a multiple of {by_name}.", got=f"{value} and {by}", allowed=f"a multiple of {by}")


def _error(what: str, *, got: object, allowed: object) -> UserError:
    return UserError(what, got=got, allowed=allowed, next="Mend config.json, or take another checkpoint.")
