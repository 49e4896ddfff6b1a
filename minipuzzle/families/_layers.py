"""What families share whose layer is two of our blocks, a mixer and the feed-forward after it; and
the check of a config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle import families
from minipuzzle.arch import Architecture
from minipuzzle.errors import UserError
from minipuzzle.families._fields import activation, divides, error, flag, limitless, positive
from minipuzzle.families._parts import Name, Pattern, named
from minipuzzle.families._rope_fields import ROPE_FIELDS
from minipuzzle.kinds import FeedForward, Mamba2

LAYER_FIELDS: dict[str, Any] = {
    "vocab_size": None,
    "hidden_size": None,
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    **ROPE_FIELDS,
}
"""What all classes of layers with attention read, and their defaults; None where it has none here:
a model's sizes.
"""
MAMBA_FIELDS: dict[str, Any] = {
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_head": "auto",
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "time_step_limit": (0.0, float("inf")),
}
"""What bamba's and granitemoehybrid's classes read of a Mamba-2 layer, and their defaults."""

MAMBA_TENSORS = {
    **{f"{p}_proj.{t}": f"{p}_proj.{t}" for p in ("in", "out") for t in ("weight", "bias")},
    "conv.weight": "conv1d.weight",
    "conv.bias": "conv1d.bias",
    "gated_norm.weight": "norm.weight",
    **{name: name for name in ("dt_bias", "A_log", "D")},
}
ATTENTION_TENSORS = {
    **{f"{p}_proj.{t}": f"{p}_proj.{t}" for p in "qkvo" for t in ("weight", "bias")},
    "q_norm.weight": "q_norm.weight",
    "k_norm.weight": "k_norm.weight",
}


Tensors = Mapping[str, Mapping[str, str | tuple[Pattern, ...]]]
"""By kind of block and canonical name: the name within a layer, or several of which a file has
one.
"""


def layer_names(
    architecture: Architecture, tensors: Tensors, top: Mapping[str, str], root: str = "model."
) -> dict[str, tuple[Name, ...]]:
    """Canonical name -> how the file holds it; ``root`` stands before "layers."."""
    result: dict[str, tuple[Name, ...]] = {}
    for tensor in architecture.tensors():
        if tensor.block is None:
            result[tensor.name] = (top[tensor.name],)
        else:
            theirs = tensors[architecture.blocks[tensor.block].kind][tensor.weight.name]
            prefix = f"{root}layers.{tensor.block // 2}."
            result[tensor.name] = in_layer(theirs, prefix, tensor.shape[0])
    return result


def in_layer(theirs: str | tuple[Pattern, ...], prefix: str, count: int) -> tuple[Name, ...]:
    """What a table of tensors says of one, whose first dimension has ``count`` indices."""
    patterns = (theirs,) if isinstance(theirs, str) else theirs
    return tuple(named(pattern, prefix, count) for pattern in patterns)


def first(architecture: Architecture, kind: str) -> Any:
    """The first block of a kind, whose sizes stand for all; None where there is none."""
    return next((block for block in architecture.blocks if block.kind == kind), None)


def checked(result: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
    """``result``, if it says the architecture. Raises: UserError where its family reads another one
    from it.
    """
    what = f"A {result['model_type']} config can't say this architecture."
    try:
        again = families.find(result["model_type"]).architecture(result)
    except UserError as fault:
        raise error(what, got=f"{fault.what} {fault.got}", allowed=fault.allowed) from fault
    if again != architecture:
        pairs = zip(architecture.blocks, again.blocks, strict=False)
        where = next(
            (f"block {i}: {a}" for i, (a, b) in enumerate(pairs) if a != b), architecture.pattern
        )
        raise error(
            what,
            got=where,
            allowed="; ".join(again.rules.sentences()) or "what its config.json has fields for",
        )
    return result


def attention_sizes(fields: Mapping[str, Any], hidden: int) -> tuple[int, int, int]:
    """(query heads, KV heads, head_dim) of the fields' usual names."""
    q = positive(fields, "num_attention_heads")
    kv = q if fields["num_key_value_heads"] is None else positive(fields, "num_key_value_heads")
    divides("num_attention_heads", q, "num_key_value_heads", kv)
    if fields["head_dim"] is not None:
        return q, kv, positive(fields, "head_dim")
    divides("hidden_size", hidden, "num_attention_heads", q)
    return q, kv, hidden // q


def read_mamba(fields: Mapping[str, Any], hidden: int, residual_multiplier: float = 1.0) -> Mamba2:
    """The Mamba-2 block of ``MAMBA_FIELDS``."""
    limitless(fields)
    activation(fields, "hidden_act", "silu")
    heads, groups = positive(fields, "mamba_n_heads"), positive(fields, "mamba_n_groups")
    inner = positive(fields, "mamba_expand") * hidden
    divides("mamba_expand x hidden_size", inner, "mamba_n_heads", heads)
    divides("mamba_n_heads", heads, "mamba_n_groups", groups)
    if fields["mamba_d_head"] not in ("auto", inner // heads):
        raise error(
            "mamba_d_head x mamba_n_heads is not mamba_expand x hidden_size.",
            got=fields["mamba_d_head"],
            allowed=inner // heads,
        )
    return Mamba2(
        hidden=hidden,
        heads=heads,
        head_dim=inner // heads,
        groups=groups,
        state=positive(fields, "mamba_d_state"),
        conv_kernel=positive(fields, "mamba_d_conv"),
        chunk_size=positive(fields, "mamba_chunk_size"),
        conv_bias=flag(fields, "mamba_conv_bias"),
        proj_bias=flag(fields, "mamba_proj_bias"),
        residual_multiplier=residual_multiplier,
    )


def write_mamba(block: Mamba2 | None) -> dict[str, Any]:
    """The fields that ``read_mamba`` reads."""
    if block is None:
        return {}
    return {
        "mamba_n_heads": block.heads,
        "mamba_d_head": block.head_dim,
        "mamba_n_groups": block.groups,
        "mamba_d_state": block.state,
        "mamba_d_conv": block.conv_kernel,
        "mamba_chunk_size": block.chunk_size,
        "mamba_conv_bias": block.conv_bias,
        "mamba_proj_bias": block.proj_bias,
        "mamba_expand": block.inner // block.hidden,
    }


def feed_forward(fields: Mapping[str, Any], hidden: int, *, bias: bool = False) -> FeedForward:
    """The SwiGLU of ``intermediate_size``. Raises: UserError for another activation."""
    activation(fields, "hidden_act", "silu")
    width = positive(fields, "intermediate_size")
    return FeedForward(hidden=hidden, intermediate=width, gated=True, activation="silu", bias=bias)
