"""OLMo Hybrid: layers of gated DeltaNet with norms before their blocks, and of OLMo 2's attention
with norms after them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import llama
from minipuzzle.families._delta import (
    DELTA_FIELDS,
    FULL,
    LINEAR,
    layer_kinds,
    read_delta,
    write_delta,
)
from minipuzzle.families._fields import epsilon, error, flag, own, positive
from minipuzzle.families._layers import (
    LAYER_FIELDS,
    Tensors,
    attention_sizes,
    feed_forward,
    first,
    layer_names,
)
from minipuzzle.families._parts import Name
from minipuzzle.families._rope_fields import read_rope
from minipuzzle.families.llama import biases, extra_files, write
from minipuzzle.kinds import Attention, Block, Rope

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = (
    LAYER_FIELDS
    | DELTA_FIELDS
    | {
        **{name: None for name in DELTA_FIELDS if name.startswith(("linear_num", "linear_key"))},
        "linear_value_head_dim": None,
        "linear_allow_neg_eigval": True,
        "intermediate_size": None,
        "num_key_value_heads": None,
        "max_position_embeddings": 65536,
        "attention_bias": False,
    }
)
RULES = replace(llama.RULES, needs=("delta_net", "attention"))
"""transformers refuses a model whose layers are all of one kind."""
GATED_NORM_EPS = 1e-5
"""Of each head's values, whatever rms_norm_eps is: flash-linear-attention's default."""

TENSORS: Tensors = {
    "delta_net": {
        "norm.weight": ("attention_layer_norm.weight", "input_layernorm.weight"),
        "in_proj_qkvz.weight": (tuple(f"linear_attn.{p}_proj.weight" for p in "qkvg"),),
        "in_proj_ba.weight": (tuple(f"linear_attn.{p}_proj.weight" for p in "ba"),),
        "conv.weight": (
            tuple(f"linear_attn.{p}_conv1d.weight" for p in "qkv"),
            "linear_attn.conv1d.weight",
        ),
        "dt_bias": "linear_attn.dt_bias",
        "A_log": "linear_attn.A_log",
        "gated_norm.weight": "linear_attn.o_norm.weight",
        "out_proj.weight": "linear_attn.o_proj.weight",
    },
    "attention": llama.TENSORS["attention"],
    "mlp": {
        **llama.TENSORS["mlp"],
        "norm.weight": ("feedforward_layer_norm.weight", "post_attention_layernorm.weight"),
    },
}
NORMS_AFTER = {
    "attention": ("post_attention_layernorm.weight", "feedforward_layer_norm.weight"),
    "mlp": ("post_feedforward_layernorm.weight",),
}
"""In layers of attention; the second name is transformers' when it saves."""


def architecture(config: dict[str, Any]) -> Architecture:
    """The architecture of a config.json; no size of the model has a default.

    Raises: UserError for impossible sizes, an unknown kind of layer or type of RoPE, another
    activation, and where all layers are of one kind.
    """
    fields = own(config, FIELDS)
    hidden, bias = positive(fields, "hidden_size"), flag(fields, "attention_bias")
    q, kv, head_dim = attention_sizes(fields, hidden)
    attention = Attention(
        hidden=hidden,
        q_heads=q,
        kv_heads=kv,
        attn_head_dim=head_dim,
        bias=bias,
        out_bias=bias,
        qk_norm=True,
        qk_norm_over="all",
        rope=_rope(fields, head_dim),
        norm_after=True,
    )
    mlp = feed_forward(fields, hidden)
    delta = read_delta(
        _sized(fields, q, hidden),
        hidden,
        beta_scale=2.0 if flag(fields, "linear_allow_neg_eigval") else 1.0,
        gated_norm_eps=GATED_NORM_EPS,
    )
    layers: dict[str, tuple[Block, Block]] = {
        LINEAR: (delta, mlp),
        FULL: (attention, replace(mlp, norm_after=True)),
    }
    kinds = layer_kinds(fields, _usual(positive(fields, "num_hidden_layers")))
    if len(set(kinds)) < 2:
        raise error(
            "All layers are of one kind, which transformers refuses.",
            got=kinds[0],
            allowed=f"at least one of {LINEAR} and one of {FULL}",
        )
    return Architecture(
        vocab_size=positive(fields, "vocab_size"),
        hidden=hidden,
        blocks=tuple(block for kind in kinds for block in layers[kind]),
        norm_eps=epsilon(fields, "rms_norm_eps"),
        tied_head=flag(fields, "tie_word_embeddings"),
        max_positions=positive(fields, "max_position_embeddings"),
        rules=RULES,
    )


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an architecture. Raises: UserError for one that no such config can say."""
    delta, attention = first(architecture, "delta_net"), first(architecture, "attention")
    turned = attention is None or attention.rope is not None
    none = {"rope_theta": None, "rope_scaling": None, "rope_parameters": None}
    return write(
        architecture,
        original,
        "olmo_hybrid",
        "OlmoHybridForCausalLM",
        attention_bias=biases(architecture)["attention_bias"],
        linear_allow_neg_eigval=delta is not None and delta.beta_scale == 2,
        **write_delta(architecture),
        **({} if turned else none),
    )


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> how a file holds it."""
    result = layer_names(architecture, TENSORS, llama.TOP)
    for i, block in enumerate(architecture.blocks):
        if block.norm_after:
            own = (f"model.layers.{i // 2}.{name}" for name in NORMS_AFTER[block.kind])
            result[f"blocks.{i}.norm.weight"] = tuple(own)
    return result


def _rope(fields: Mapping[str, Any], head_dim: int) -> Rope | None:
    """None where rope_theta is null, in rope_parameters or, where that says nothing of it,
    beside it.
    """
    said = fields["rope_scaling"] or fields["rope_parameters"] or {}
    theta = {"rope_theta": fields["rope_theta"], **(said if isinstance(said, dict) else {})}
    return None if theta["rope_theta"] is None else read_rope(fields, head_dim)


def _sized(fields: Mapping[str, Any], heads: int, hidden: int) -> dict[str, Any]:
    """The fields with the sizes that the class gives DeltaNet where they are null."""
    found = dict(fields)
    for name in ("linear_num_key_heads", "linear_num_value_heads"):
        found[name] = heads if found[name] is None else found[name]
    if found["linear_key_head_dim"] is None:
        found["linear_key_head_dim"] = int(0.75 * hidden / positive(found, "linear_num_key_heads"))
    if found["linear_value_head_dim"] is None:
        found["linear_value_head_dim"] = 2 * positive(found, "linear_key_head_dim")
    return found


def _usual(layers: int) -> list[str]:
    """Every fourth layer is attention, or else the last."""
    kinds = [FULL if i % 4 == 3 else LINEAR for i in range(layers)]
    return kinds if FULL in kinds else [*kinds[:-1], FULL]
