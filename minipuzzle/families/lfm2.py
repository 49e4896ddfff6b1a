"""LFM2: a layer is a gated short convolution or attention with a norm on each query's and key's
head, then SwiGLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle.arch import Architecture, Rules
from minipuzzle.families._fields import epsilon, error, flag, kept, number, own, positive
from minipuzzle.families._layers import LAYER_FIELDS, attention_sizes, checked, first, layer_names
from minipuzzle.families._parts import Name
from minipuzzle.families._rope_fields import read_rope, write_rope
from minipuzzle.families.llama import extra_files
from minipuzzle.kinds import Attention, FeedForward, ShortConv

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = {
    **{k: v for k, v in LAYER_FIELDS.items() if k not in ("rms_norm_eps", "hidden_act")},
    "rope_theta": 1_000_000.0,
    "intermediate_size": None,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128_000,
    "norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_auto_adjust_ff_dim": True,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
    "layer_types": None,
    "full_attn_idxs": None,
    "tie_embedding": None,
    "block_ff_dim": None,
}
OLD_NAMES = {"tie_embedding": "tie_word_embeddings", "block_ff_dim": "intermediate_size"}
"""Names of the published files, which come before the new ones where both are there; engines read
``block_ff_dim`` alone.
"""
REPEATED = ("tie_embedding", "full_attn_idxs")
"""Fields of a parent that would contradict the ones that are written."""

TENSORS = {
    "attention": {
        "norm.weight": "operator_norm.weight",
        **{f"{p}_proj.weight": f"self_attn.{p}_proj.weight" for p in "qkv"},
        "o_proj.weight": "self_attn.out_proj.weight",
        **{f"{p}_norm.weight": f"self_attn.{p}_layernorm.weight" for p in "qk"},
    },
    "short_conv": {
        "norm.weight": "operator_norm.weight",
        **{
            f"{p}.{t}": f"conv.{p}.{t}"
            for p in ("in_proj", "conv", "out_proj")
            for t in ("weight", "bias")
        },
    },
    "mlp": {
        "norm.weight": "ffn_norm.weight",
        "gate_proj.weight": "feed_forward.w1.weight",
        "up_proj.weight": "feed_forward.w3.weight",
        "down_proj.weight": "feed_forward.w2.weight",
    },
}
TOP = {
    "embeddings.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.embedding_norm.weight",
    "head.weight": "lm_head.weight",
}
RULES = Rules(
    paired=True, per_block_sizes=False, fixed=("q_heads", "kv_heads", "conv_channels", "hidden")
)
"""The config has no field for head_dim, nor for the convolutions' channels: they are the hidden
size's.
"""


def architecture(config: dict[str, Any]) -> Architecture:
    """The architecture of a config.json; no size of the model has a default.

    Raises: UserError for impossible sizes, an unknown type of RoPE or of layer.
    """
    fields = own(config, FIELDS)
    for old, new in OLD_NAMES.items():
        fields[new] = fields[new] if fields[old] is None else fields[old]
    hidden = positive(fields, "hidden_size")
    q, kv, head_dim = attention_sizes(fields, hidden)
    attention = Attention(
        hidden=hidden,
        q_heads=q,
        kv_heads=kv,
        attn_head_dim=head_dim,
        qk_norm=True,
        rope=read_rope(fields, head_dim),
    )
    short = ShortConv(
        hidden=hidden,
        conv_channels=hidden,
        conv_kernel=positive(fields, "conv_L_cache"),
        bias=flag(fields, "conv_bias"),
    )
    mlp = FeedForward(hidden=hidden, intermediate=_width(fields), gated=True, activation="silu")
    layers = [(attention if attends else short, mlp) for attends in _attending(fields)]
    return Architecture(
        vocab_size=positive(fields, "vocab_size"),
        hidden=hidden,
        blocks=tuple(block for layer in layers for block in layer),
        norm_eps=epsilon(fields, "norm_eps"),
        tied_head=flag(fields, "tie_word_embeddings"),
        max_positions=positive(fields, "max_position_embeddings"),
        rules=RULES,
    )


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an architecture, with the width that there is: nothing is left to adjust.

    Raises: UserError for one that no such config can say.
    """
    attention, mlp = first(architecture, "attention"), first(architecture, "mlp")
    short = first(architecture, "short_conv")
    result = {k: v for k, v in kept(original).items() if k not in REPEATED}
    result |= {
        "model_type": "lfm2",
        "architectures": ["Lfm2ForCausalLM"],
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden,
        "num_hidden_layers": len(architecture.blocks) // 2,
        "norm_eps": architecture.norm_eps,
        "tie_word_embeddings": architecture.tied_head,
        "max_position_embeddings": architecture.max_positions,
        "layer_types": [
            "full_attention" if isinstance(block, Attention) else "conv"
            for block in architecture.blocks[:-1:2]
        ],
        "block_auto_adjust_ff_dim": False,
    }
    if mlp is not None:
        result |= dict.fromkeys(("intermediate_size", "block_ff_dim"), mlp.intermediate)
    if short is not None:
        result |= {"conv_L_cache": short.conv_kernel, "conv_bias": short.bias}
    if attention is not None:
        result |= {
            "num_attention_heads": attention.q_heads,
            "num_key_value_heads": attention.kv_heads,
            **write_rope(attention.rope),
        }
    return checked(result, architecture)


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> the one name in files."""
    return layer_names(architecture, TENSORS, TOP)


def _width(fields: Mapping[str, Any]) -> int:
    """The width of SwiGLU: two thirds of the field's, times a factor, up to a multiple, unless
    nothing is to be adjusted.
    """
    width = positive(fields, "intermediate_size")
    if not flag(fields, "block_auto_adjust_ff_dim"):
        return width
    width = int(2 * width / 3)
    if fields["block_ffn_dim_multiplier"] is None:
        return width
    width = int(number(fields, "block_ffn_dim_multiplier") * width)
    multiple = positive(fields, "block_multiple_of")
    return -(-width // multiple) * multiple


def _attending(fields: Mapping[str, Any]) -> list[bool]:
    """Whether each layer is attention; all are where nothing is said."""
    layers, kinds = positive(fields, "num_hidden_layers"), fields["layer_types"]
    if kinds is not None:
        known = ("full_attention", "conv")
        if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= set(known):
            raise error(
                "layer_types does not name each layer's kind.",
                got=kinds,
                allowed=f"{layers} of {', '.join(known)}",
            )
        return [kind == "full_attention" for kind in kinds]
    said = fields["full_attn_idxs"]
    if said is None:
        return [True] * layers
    if not isinstance(said, list) or not all(type(index) is int for index in said):
        raise error(
            "full_attn_idxs is not a list of whole numbers.",
            got=said,
            allowed="the positions of layers with attention",
        )
    return [i in said for i in range(layers)]
