"""Phi 3 and Phi 4: Llama with q, k and v in one matrix, gate and up in another, and RoPE on a share
of each head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import activation, error, own, positive
from minipuzzle.families._layers import LAYER_FIELDS, Tensors, first, layer_names
from minipuzzle.families._parts import Name
from minipuzzle.families._rope_fields import read_rope, write_rope
from minipuzzle.families._windows import slid, window_of, windows_of
from minipuzzle.families.llama import FIXED_HEADS, TOP, extra_files, read, write
from minipuzzle.kinds import Attention, FeedForward

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = LAYER_FIELDS | {
    "intermediate_size": None,
    "num_key_value_heads": None,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
}
TENSORS: Tensors = {
    "attention": {
        "norm.weight": "input_layernorm.weight",
        "qkv_proj.weight": "self_attn.qkv_proj.weight",
        "o_proj.weight": "self_attn.o_proj.weight",
    },
    "mlp": {
        "norm.weight": "post_attention_layernorm.weight",
        "gate_up_proj.weight": "mlp.gate_up_proj.weight",
        "down_proj.weight": "mlp.down_proj.weight",
    },
}


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``. Raises: UserError also for another rope_type than "default": of
    the others transformers' class has "longrope" alone.
    """
    fields = own(config, FIELDS)
    activation(fields, "hidden_act", "silu")
    hidden, width = positive(fields, "hidden_size"), positive(fields, "intermediate_size")
    mlp = FeedForward(hidden=hidden, intermediate=width, gated=True, packed=True, activation="silu")
    layers = positive(fields, "num_hidden_layers")
    apart = dict.fromkeys(("rope_scaling", "rope_parameters"))
    plain = read({**fields, **apart}, seconds=[mlp] * layers, rules=FIXED_HEADS)
    head_dim = first(plain, "attention").attn_head_dim
    share = fields["partial_rotary_factor"]
    rope = read_rope(fields, head_dim, partial=1.0 if share is None else share)
    if rope.kind != "default":
        raise error("This rope_type is not supported.", got=rope.kind, allowed="default")
    blocks = (
        replace(b, packed=True, rope=rope) if isinstance(b, Attention) else b for b in plain.blocks
    )
    return slid(replace(plain, blocks=tuple(blocks)), [window_of(fields)] * layers)


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    attention = first(architecture, "attention")
    rope = {} if attention is None else write_rope(attention.rope, attention.attn_head_dim)
    window = next(iter(windows_of(architecture)), None)
    others = {**rope, "sliding_window": window}
    return write(architecture, original, "phi3", "Phi3ForCausalLM", **others)


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> the one name in files."""
    return layer_names(architecture, TENSORS, TOP)
