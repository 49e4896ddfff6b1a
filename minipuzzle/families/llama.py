"""Llama and models of its shape (SmolLM, Yi, ...): a layer is attention with RoPE, then SwiGLU.
``read`` and ``write`` serve Mistral, Qwen 2 and 3 and SmolLM 3 too, which differ in a few
fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from minipuzzle.arch import Architecture, Rules
from minipuzzle.families._fields import divides, epsilon, flag, kept, own, positive
from minipuzzle.families._layers import (
    ATTENTION_TENSORS,
    LAYER_FIELDS,
    attention_sizes,
    checked,
    feed_forward,
    first,
    layer_names,
)
from minipuzzle.families._parts import Name
from minipuzzle.families._rope_fields import read_rope, write_rope
from minipuzzle.families._rules import WHOLE_HEADS
from minipuzzle.kinds import Attention, Block

FIELDS = LAYER_FIELDS | {
    "intermediate_size": None,
    "num_key_value_heads": None,
    "max_position_embeddings": 2048,
    "attention_bias": False,
    "mlp_bias": False,
}

TENSORS = {
    "attention": {
        "norm.weight": "input_layernorm.weight",
        **{k: f"self_attn.{v}" for k, v in ATTENTION_TENSORS.items()},
    },
    "mlp": {
        "norm.weight": "post_attention_layernorm.weight",
        **{
            f"{p}_proj.{t}": f"mlp.{p}_proj.{t}"
            for p in ("gate", "up", "down")
            for t in ("weight", "bias")
        },
    },
}
TOP = {
    "embeddings.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
RULES = Rules(paired=True, per_block_sizes=False)
FIXED_HEADS = replace(RULES, fixed=("q_heads", "kv_heads", "hidden"))
"""For configs without a field for head_dim: it is hidden_size / num_attention_heads, so both must
stay.
"""


def architecture(config: dict[str, Any]) -> Architecture:
    """The architecture of a config.json; no size of the model has a default, KV heads and head_dim
    have transformers'.

    Raises: UserError for impossible sizes, an unknown type of RoPE or another activation.
    """
    fields = own(config, FIELDS)
    bias, heads = flag(fields, "attention_bias"), positive(fields, "num_attention_heads")
    # transformers insists
    divides("hidden_size", positive(fields, "hidden_size"), "num_attention_heads", heads)
    mlp_bias = flag(fields, "mlp_bias")
    return read(
        fields,
        bias=bias,
        out_bias=bias,
        mlp_bias=mlp_bias,
        rules=replace(RULES, multiples=(WHOLE_HEADS,)),
    )


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an architecture. Raises: UserError for one that no such config can say."""
    return write(architecture, original, "llama", "LlamaForCausalLM", **biases(architecture))


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> the one name in files."""
    return layer_names(architecture, TENSORS, TOP)


def extra_files(architecture: Architecture) -> dict[str, str]:
    """None: transformers and every engine know the type."""
    return {}


def read(
    fields: dict[str, Any],
    *,
    bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    qk_norm_over: str = "head",
    seconds: Sequence[Block] | None = None,
    rules: Rules = RULES,
) -> Architecture:
    """The architecture of a family's own fields, Llama's among them. ``seconds``: the second block
    of each layer; None: SwiGLU in all.
    """
    hidden = positive(fields, "hidden_size")
    q, kv, head_dim = attention_sizes(fields, hidden)
    attention = Attention(
        hidden=hidden,
        q_heads=q,
        kv_heads=kv,
        attn_head_dim=head_dim,
        bias=bias,
        out_bias=out_bias,
        qk_norm=qk_norm,
        qk_norm_over=qk_norm_over,
        rope=read_rope(fields, head_dim),
    )
    if seconds is None:
        mlp = feed_forward(fields, hidden, bias=mlp_bias)
        seconds = (mlp,) * positive(fields, "num_hidden_layers")
    return Architecture(
        vocab_size=positive(fields, "vocab_size"),
        hidden=hidden,
        blocks=tuple(block for second in seconds for block in (attention, second)),
        norm_eps=epsilon(fields, "rms_norm_eps"),
        tied_head=flag(fields, "tie_word_embeddings"),
        max_positions=positive(fields, "max_position_embeddings"),
        rules=rules,
    )


def write(
    architecture: Architecture,
    original: dict[str, Any],
    model_type: str,
    model_class: str,
    **others: Any,
) -> dict[str, Any]:
    """A config with Llama's fields, those of ``others``, and what ``original`` says of other
    things.

    Raises: UserError where it can't say the architecture.
    """
    attention, mlp = first(architecture, "attention"), first(architecture, "mlp")
    ropes = [b.rope for b in architecture.blocks if isinstance(b, Attention) and b.rope is not None]
    result = kept(original) | {
        "model_type": model_type,
        "architectures": [model_class],
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden,
        "num_hidden_layers": len(architecture.blocks) // 2,
        "rms_norm_eps": architecture.norm_eps,
        "tie_word_embeddings": architecture.tied_head,
        "max_position_embeddings": architecture.max_positions,
        "hidden_act": "silu",
        **write_rope(ropes[0] if ropes else None),
    }
    if mlp is not None:
        result["intermediate_size"] = mlp.intermediate
    if attention is not None:
        result |= {
            "num_attention_heads": attention.q_heads,
            "num_key_value_heads": attention.kv_heads,
        }
        result |= {} if architecture.rules.fixed else {"head_dim": attention.attn_head_dim}
    return checked(result | others, architecture)


def biases(architecture: Architecture) -> dict[str, bool]:
    """The fields of biases."""
    attention, mlp = first(architecture, "attention"), first(architecture, "mlp")
    return {
        "attention_bias": bool(attention and attention.bias),
        "mlp_bias": bool(mlp and mlp.bias),
    }
