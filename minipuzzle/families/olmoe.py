"""OLMoE: Llama with experts for its feed-forward, and a norm over all of q and of k."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import llama
from minipuzzle.families._experts import EXPERT_FIELDS, EXPERT_TENSORS, read_experts, write_experts
from minipuzzle.families._fields import error, flag, only, own, positive
from minipuzzle.families._layers import LAYER_FIELDS, Tensors, attention_sizes, first, layer_names
from minipuzzle.families._parts import Name
from minipuzzle.families._windows import window_of
from minipuzzle.families.llama import FIXED_HEADS, biases, extra_files, read, write

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = (
    LAYER_FIELDS
    | EXPERT_FIELDS
    | {
        "intermediate_size": None,
        "num_key_value_heads": None,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "sliding_window": None,
        "clip_qkv": None,
    }
)
TENSORS: Tensors = {"attention": llama.TENSORS["attention"], "moe": EXPERT_TENSORS}
WIDTH = "intermediate_size"


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``. Raises: UserError also for queries that are wider or narrower than
    the hidden size, for clipped ones, and for more chosen experts than there are.
    """
    fields = own(config, FIELDS)
    only(fields, {"clip_qkv": None})
    window, longest = window_of(fields), positive(fields, "max_position_embeddings")
    if window is not None and window < longest:
        raise error(
            "sliding_window is not supported: only some of transformers' kernels obey it here.",
            got=f"{window} tokens, {longest} positions",
            allowed="null, or all of max_position_embeddings",
        )
    hidden, bias = positive(fields, "hidden_size"), flag(fields, "attention_bias")
    q, _, head_dim = attention_sizes(fields, hidden)
    if q * head_dim != hidden:  # the class has a norm of that width
        raise error(
            "num_attention_heads x head_dim is not hidden_size.",
            got=f"{q} x {head_dim}",
            allowed=hidden,
        )
    moe = read_experts(fields, hidden, WIDTH)
    return read(
        fields,
        bias=bias,
        out_bias=bias,
        qk_norm=True,
        qk_norm_over="all",
        seconds=[moe] * positive(fields, "num_hidden_layers"),
        rules=FIXED_HEADS,
    )


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    return write(
        architecture,
        {k: v for k, v in original.items() if k != "num_local_experts"},
        "olmoe",
        "OlmoeForCausalLM",
        attention_bias=biases(architecture)["attention_bias"],
        **write_experts(first(architecture, "moe"), WIDTH),
    )


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> how a file holds it."""
    return layer_names(architecture, TENSORS, llama.TOP)
