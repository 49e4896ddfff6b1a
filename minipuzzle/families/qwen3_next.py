"""Qwen3-Next: layers of gated DeltaNet and, every fourth, of attention with an output gate; then
SwiGLU experts with a shared one behind a gate, or a dense SwiGLU. Norms multiply with 1 + weight.
"""

from __future__ import annotations

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
from minipuzzle.families._experts import (
    DENSE_FIELDS,
    EXPERT_FIELDS,
    EXPERT_TENSORS,
    SHARED_TENSORS,
    second_blocks,
    write_dense,
    write_experts,
)
from minipuzzle.families._fields import epsilon, flag, own, positive
from minipuzzle.families._layers import LAYER_FIELDS, Tensors, attention_sizes, first, layer_names
from minipuzzle.families._parts import Interleaved, Name
from minipuzzle.families._rope_fields import read_rope, write_rope
from minipuzzle.families.llama import biases, extra_files, write
from minipuzzle.kinds import Attention, Block

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
WIDTH, SHARED = "moe_intermediate_size", "shared_expert_intermediate_size"
FIELDS = (
    LAYER_FIELDS
    | EXPERT_FIELDS
    | DENSE_FIELDS
    | DELTA_FIELDS
    | {
        "head_dim": 256,
        "intermediate_size": None,
        WIDTH: None,
        SHARED: 512,
        "norm_topk_prob": True,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "attention_bias": False,
        "full_attention_interval": None,
    }
)
TURNED, INTERVAL = 0.25, 4
"""What the class takes where partial_rotary_factor and full_attention_interval are absent."""

TENSORS: Tensors = {
    "delta_net": {
        "norm.weight": "input_layernorm.weight",
        # of each head of keys its rows of q, k, v and z, then the next one's; so b and a
        "in_proj_qkvz.weight": (Interleaved("linear_attn.in_proj_qkvz.weight"),),
        "in_proj_ba.weight": (Interleaved("linear_attn.in_proj_ba.weight"),),
        "conv.weight": "linear_attn.conv1d.weight",
        "dt_bias": "linear_attn.dt_bias",
        "A_log": "linear_attn.A_log",
        "gated_norm.weight": "linear_attn.norm.weight",
        "out_proj.weight": "linear_attn.out_proj.weight",
    },
    **llama.TENSORS,
    "moe": EXPERT_TENSORS | SHARED_TENSORS,
}


def architecture(config: dict[str, Any]) -> Architecture:
    """The architecture of a config.json; sizes of attention's and DeltaNet's heads have the class's
    defaults.

    Raises: UserError for impossible sizes, an unknown kind of layer or type of RoPE, another
    activation, and for more chosen experts than there are.
    """
    fields = own(config, FIELDS)
    hidden, bias = positive(fields, "hidden_size"), flag(fields, "attention_bias")
    q, kv, head_dim = attention_sizes(fields, hidden)
    share = fields["partial_rotary_factor"]
    mixers: dict[str, Block] = {
        LINEAR: read_delta(fields, hidden),
        FULL: Attention(
            hidden=hidden,
            q_heads=q,
            kv_heads=kv,
            attn_head_dim=head_dim,
            bias=bias,
            out_bias=bias,
            qk_norm=True,
            output_gate=True,
            rope=read_rope(fields, head_dim, partial=TURNED if share is None else share),
        ),
    }
    layers, interval = positive(fields, "num_hidden_layers"), INTERVAL
    if fields["full_attention_interval"] is not None:
        interval = positive(fields, "full_attention_interval")
    usual = [LINEAR if (i + 1) % interval else FULL for i in range(layers)]
    shared = {"shared_width": positive(fields, SHARED), "shared_gate": True}
    seconds = second_blocks(fields, WIDTH, **shared)
    pairs = zip(layer_kinds(fields, usual), seconds, strict=True)
    blocks = [block for kind, second in pairs for block in (mixers[kind], second)]
    return Architecture(
        vocab_size=positive(fields, "vocab_size"),
        hidden=hidden,
        blocks=tuple(replace(block, zero_centred=True) for block in blocks),
        norm_eps=epsilon(fields, "rms_norm_eps"),
        zero_centred=True,
        tied_head=flag(fields, "tie_word_embeddings"),
        max_positions=positive(fields, "max_position_embeddings"),
        rules=llama.RULES,
    )


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``; kinds of layers and dense layers are listed."""
    attention, moe = first(architecture, "attention"), first(architecture, "moe")
    others, delta = dict[str, Any](), write_delta(architecture)
    if attention is not None:
        others |= write_rope(attention.rope, attention.attn_head_dim)
        # mlx-lm reads these two, and no list of layers
        if attention.rope is not None:
            others["partial_rotary_factor"] = attention.rope.dim / attention.attn_head_dim
        others["full_attention_interval"] = delta["layer_types"].index(FULL) + 1
    if moe is not None:
        others[SHARED] = moe.shared_width
    return write(
        architecture,
        {k: v for k, v in original.items() if k != "num_local_experts"},
        "qwen3_next",
        "Qwen3NextForCausalLM",
        attention_bias=biases(architecture)["attention_bias"],
        **delta,
        **write_dense(architecture),
        **write_experts(moe, WIDTH),
        **others,
    )


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> how a file holds it."""
    return layer_names(architecture, TENSORS, llama.TOP)
