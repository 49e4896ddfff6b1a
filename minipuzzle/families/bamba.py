"""Bamba: a layer is Mamba-2 or attention (RoPE on half of each head), then SwiGLU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle.arch import Architecture, Rules
from minipuzzle.families._fields import epsilon, error, flag, kept, own, positive
from minipuzzle.families._layers import (
    LAYER_FIELDS,
    MAMBA_FIELDS,
    MAMBA_TENSORS,
    attention_sizes,
    checked,
    feed_forward,
    first,
    layer_names,
    read_mamba,
    write_mamba,
)
from minipuzzle.families._parts import Name
from minipuzzle.families._rope_fields import read_rope, write_rope
from minipuzzle.families._rules import WHOLE_EXPANSION
from minipuzzle.families.llama import TENSORS as LLAMA_TENSORS
from minipuzzle.families.llama import biases
from minipuzzle.kinds import Attention

FIELDS = (
    LAYER_FIELDS
    | MAMBA_FIELDS
    | {
        "intermediate_size": None,
        "num_key_value_heads": 8,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "mlp_bias": False,
        "attn_layer_indices": None,
    }
)
TENSORS = {
    "attention": LLAMA_TENSORS["attention"],
    "mamba": {
        "norm.weight": "input_layernorm.weight",
        **{k: f"mamba.{v}" for k, v in MAMBA_TENSORS.items()},
    },
    "mlp": {
        **{k: v.replace("mlp.", "feed_forward.") for k, v in LLAMA_TENSORS["mlp"].items()},
        "norm.weight": "pre_ff_layernorm.weight",
    },
}
TOP = {
    "embeddings.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.final_layernorm.weight",
    "head.weight": "lm_head.weight",
}
RULES = Rules(
    paired=True,
    per_block_sizes=False,
    fixed=("q_heads", "kv_heads", "hidden"),
    multiples=(WHOLE_EXPANSION,),
)


def architecture(config: dict[str, Any]) -> Architecture:
    """The architecture of a config.json; what has a default in transformers has it here, but for
    the model's size.

    Raises: UserError for impossible sizes, another activation, an unknown type of RoPE, or a
    bounded dt.
    """
    fields = own(config, FIELDS)
    hidden, bias = positive(fields, "hidden_size"), flag(fields, "attention_bias")
    q, kv, head_dim = attention_sizes(fields, hidden)
    # transformers overrides the top-level partial_rotary_factor with a half, but not the one in
    # rope_parameters
    attention = Attention(
        hidden=hidden,
        q_heads=q,
        kv_heads=kv,
        attn_head_dim=head_dim,
        bias=bias,
        out_bias=bias,
        rope=read_rope(fields, head_dim, partial=0.5),
    )
    mamba, mlp = (
        read_mamba(fields, hidden),
        feed_forward(fields, hidden, bias=flag(fields, "mlp_bias")),
    )
    layers = [(attention if attends else mamba, mlp) for attends in _attending(fields)]
    return Architecture(
        vocab_size=positive(fields, "vocab_size"),
        hidden=hidden,
        blocks=tuple(b for layer in layers for b in layer),
        norm_eps=epsilon(fields, "rms_norm_eps"),
        tied_head=flag(fields, "tie_word_embeddings"),
        max_positions=positive(fields, "max_position_embeddings"),
        rules=RULES,
    )


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an architecture. Raises: UserError for one that no such config can say."""
    attention, mlp = first(architecture, "attention"), first(architecture, "mlp")
    result = kept(original) | {
        "model_type": "bamba",
        "architectures": ["BambaForCausalLM"],
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden,
        "num_hidden_layers": len(architecture.blocks) // 2,
        "rms_norm_eps": architecture.norm_eps,
        "tie_word_embeddings": architecture.tied_head,
        "max_position_embeddings": architecture.max_positions,
        "hidden_act": "silu",
        **biases(architecture),
        "attn_layer_indices": [i // 2 for i in architecture.indices("attention")],
        **write_mamba(first(architecture, "mamba")),
    }
    if attention is not None:
        result |= {
            "num_attention_heads": attention.q_heads,
            "num_key_value_heads": attention.kv_heads,
        }
        result |= write_rope(attention.rope, attention.attn_head_dim)
    if mlp is not None:
        result["intermediate_size"] = mlp.intermediate
    return checked(result, architecture)


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> the one name in files."""
    return layer_names(architecture, TENSORS, TOP)


def extra_files(architecture: Architecture) -> dict[str, str]:
    """None: transformers knows the type."""
    return {}


def _attending(fields: Mapping[str, Any]) -> list[bool]:
    """Whether each layer is attention."""
    said = fields["attn_layer_indices"] or []
    if not isinstance(said, list) or not all(isinstance(index, int) for index in said):
        raise error(
            "attn_layer_indices is not a list of whole numbers.",
            got=said,
            allowed="the positions of layers",
        )
    return [i in said for i in range(positive(fields, "num_hidden_layers"))]
