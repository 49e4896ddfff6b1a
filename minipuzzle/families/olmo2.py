"""OLMo 2: Llama with the norm after each mixer and none before it, and a norm over all of q and of
k.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import llama
from minipuzzle.families._fields import flag, own
from minipuzzle.families._layers import layer_names
from minipuzzle.families._parts import Name
from minipuzzle.families.llama import biases, extra_files, read, write

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = {name: value for name, value in llama.FIELDS.items() if name != "mlp_bias"}
FIELDS |= {"rms_norm_eps": 1e-5}

NORMS = {"attention": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}
TENSORS = {
    kind: {**tensors, "norm.weight": f"{NORMS[kind]}.weight"}
    for kind, tensors in llama.TENSORS.items()
}


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``; head_dim need not be hidden_size / num_attention_heads."""
    fields = own(config, FIELDS)
    bias = flag(fields, "attention_bias")
    result = read(fields, bias=bias, out_bias=bias, qk_norm=True, qk_norm_over="all")
    return replace(result, blocks=tuple(replace(b, norm_after=True) for b in result.blocks))


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    bias = biases(architecture)["attention_bias"]
    return write(architecture, original, "olmo2", "Olmo2ForCausalLM", attention_bias=bias)


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> the one name in files."""
    return layer_names(architecture, TENSORS, llama.TOP)
