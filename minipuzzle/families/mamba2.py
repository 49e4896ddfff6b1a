"""Mamba-2 (arXiv:2405.21060) as transformers has it: every layer is one block. Codestral Mamba and
others.
"""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture, Rules
from minipuzzle.families._fields import (
    activation,
    divides,
    epsilon,
    error,
    flag,
    kept,
    limitless,
    own,
    positive,
)
from minipuzzle.families._layers import MAMBA_TENSORS, checked, first
from minipuzzle.families._rules import WHOLE_EXPANSION
from minipuzzle.kinds import Mamba2

FIELDS: dict[str, Any] = {
    "vocab_size": None,
    "hidden_size": None,
    "num_hidden_layers": None,
    "num_heads": 128,
    "head_dim": 64,
    "n_groups": 8,
    "state_size": 128,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "layer_norm_epsilon": 1e-5,
    "chunk_size": 256,
    "time_step_limit": (0.0, float("inf")),
    "tie_word_embeddings": False,
}
TENSORS = {"norm.weight": "norm.weight", **{k: f"mixer.{v}" for k, v in MAMBA_TENSORS.items()}}
TOP = {
    "embeddings.weight": ("backbone.embeddings.weight", "backbone.embedding.weight"),
    "final_norm.weight": ("backbone.norm_f.weight",),
    "head.weight": ("lm_head.weight",),
}
RULES = Rules(per_block_sizes=False, multiples=(WHOLE_EXPANSION,))


def architecture(config: dict[str, Any]) -> Architecture:
    """The architecture of a config.json; the sizes of heads, groups and states have transformers'
    defaults.

    Raises: UserError where num_heads x head_dim is not expand x hidden_size, for another
    activation, or a bounded dt.
    """
    fields = own(config, FIELDS)
    limitless(fields)
    activation(fields, "hidden_act", "silu")
    hidden, expand = positive(fields, "hidden_size"), positive(fields, "expand")
    heads, head_dim, groups = (
        positive(fields, name) for name in ("num_heads", "head_dim", "n_groups")
    )
    divides("num_heads", heads, "n_groups", groups)
    if heads * head_dim != expand * hidden:
        raise error(
            "num_heads x head_dim is not expand x hidden_size.",
            got=f"{heads} x {head_dim}",
            allowed=f"{expand} x {hidden}",
        )
    block = Mamba2(
        hidden=hidden,
        heads=heads,
        head_dim=head_dim,
        groups=groups,
        state=positive(fields, "state_size"),
        conv_kernel=positive(fields, "conv_kernel"),
        conv_bias=flag(fields, "use_conv_bias"),
        proj_bias=flag(fields, "use_bias"),
        chunk_size=positive(fields, "chunk_size"),
    )
    return Architecture(
        vocab_size=positive(fields, "vocab_size"),
        hidden=hidden,
        blocks=(block,) * positive(fields, "num_hidden_layers"),
        norm_eps=epsilon(fields, "layer_norm_epsilon"),
        tied_head=flag(fields, "tie_word_embeddings"),
        rules=RULES,
    )


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an architecture. Raises: UserError for one that no such config can say."""
    result = kept(original) | {
        "model_type": "mamba2",
        "architectures": ["Mamba2ForCausalLM"],
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden,
        "num_hidden_layers": len(architecture.blocks),
        "hidden_act": "silu",
        "layer_norm_epsilon": architecture.norm_eps,
        "tie_word_embeddings": architecture.tied_head,
    }
    block = first(architecture, "mamba")
    if block is not None:
        result |= {
            "num_heads": block.heads,
            "head_dim": block.head_dim,
            "n_groups": block.groups,
            "state_size": block.state,
            "expand": block.inner // block.hidden,
            "conv_kernel": block.conv_kernel,
            "use_conv_bias": block.conv_bias,
            "use_bias": block.proj_bias,
            "chunk_size": block.chunk_size,
            # what mlx-lm has no defaults for
            "intermediate_size": block.inner,
            "time_step_limit": [0.0, float("inf")],
            "time_step_rank": "auto",
        }
    return checked(result, architecture)


def names(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Canonical tensor name -> names in files; older ones say ``embedding``."""
    return {
        tensor.name: TOP[tensor.name]
        if tensor.block is None
        else (f"backbone.layers.{tensor.block}.{TENSORS[tensor.weight.name]}",)
        for tensor in architecture.tensors()
    }


def extra_files(architecture: Architecture) -> dict[str, str]:
    """None: transformers knows the type."""
    return {}
