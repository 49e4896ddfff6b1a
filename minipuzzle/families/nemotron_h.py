"""Nemotron-H (arXiv:2504.03624): every layer is one block of Mamba-2, relu^2 feed-forward or
attention.

Blocks of one kind with different sizes are written as ``block_configs`` under the type
``nemotron_h_puzzle``, the schema that vLLM, SGLang, TensorRT-LLM and llama.cpp read, with the two
classes transformers needs beside it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import divides, epsilon, error, flag, kept, positive
from minipuzzle.families._nemotron_h_fields import FIELDS, canonical, layers, of_block, supported
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
AXIS_FIELDS = {
    "mamba": {"heads": "mamba_num_heads", "head_dim": "mamba_head_dim"},
    "attention": {"q_heads": "num_attention_heads", "kv_heads": "num_key_value_heads"},
    "mlp": {"intermediate": "intermediate_size"},
}
TENSORS = {
    "norm.weight": "norm.weight",
    "in_proj.weight": "mixer.in_proj.weight",
    "in_proj.bias": "mixer.in_proj.bias",
    "conv.weight": "mixer.conv1d.weight",
    "conv.bias": "mixer.conv1d.bias",
    "dt_bias": "mixer.dt_bias",
    "A_log": "mixer.A_log",
    "D": "mixer.D",
    "gated_norm.weight": "mixer.norm.weight",
    "out_proj.weight": "mixer.out_proj.weight",
    "out_proj.bias": "mixer.out_proj.bias",
    **{
        f"{p}_proj.{t}": f"mixer.{p}_proj.{t}"
        for p in ("q", "k", "v", "o", "up", "down")
        for t in ("weight", "bias")
    },
}
TOP = {
    "embeddings.weight": ("embeddings.weight", "embedding.weight"),
    "final_norm.weight": ("norm_f.weight",),
}
ROOTS = ("backbone", "model")
REWRITTEN = (
    "mamba_dt_limit",
    "block_configs",
    "mamba_d_conv",
    "mamba_conv_bias",
    "mamba_chunk_size",
    "attention_head_dim",
)


def architecture(config: dict[str, Any]) -> Architecture:
    """The architecture of a config.json; fields that are absent have transformers' defaults, but no
    size of the model has.

    Raises: UserError for an unknown pattern letter, a pattern of another length, fields that
    contradict each other, impossible sizes, or an option that this model does not have (another
    activation, a sliding window, a bounded dt).
    """
    fields = canonical(config)
    hidden, kinds = positive(fields, "hidden_size"), layers(fields)
    said = fields["block_configs"] or [{}] * len(kinds)
    own_type = config.get("model_type") == "nemotron_h"
    pairs = zip(kinds, said, strict=True)
    blocks = [_block(kind, of_block(fields, own), hidden) for kind, own in pairs]
    alike = [_block(kind, fields, hidden) for kind in kinds] if own_type else blocks
    if blocks != alike:
        raise error(
            "block_configs is not read for nemotron_h.",
            got="blocks of other sizes than the config's fields",
            allowed="model_type nemotron_h_puzzle, or one size for all",
        )
    return Architecture(
        vocab_size=positive(fields, "vocab_size"),
        hidden=hidden,
        blocks=tuple(blocks),
        norm_eps=epsilon(fields, "layer_norm_epsilon"),
        # tie_word_embeddings is read by no implementation of this family: each has a head of its
        # own
        tied_head=False,
        max_positions=positive(fields, "max_position_embeddings"),
    )


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an architecture, with what transformers, vLLM, SGLang and llama.cpp each
    look for.

    The pattern is written without ``layers_block_type``: beside a pattern transformers 5.13-5.17
    refuse its old names, 5.6-5.12 and SGLang its new ones, and all of them read the pattern alone,
    as in the released Nemotron Nano 2.

    Raises: UserError for what no config of this family can say: a tied head, a bias in attention, a
    gate.
    """
    if architecture.tied_head or any(b != _plain(b) for b in architecture.blocks):
        raise error(
            "nemotron_h has no tied head and no bias in attention.",
            got="an architecture with one of them",
            allowed="a head of its own, attention without bias or positions, relu2 without a gate",
        )
    result = {k: v for k, v in kept(original).items() if k not in REWRITTEN}
    if result.get("num_nextn_predict_layers"):
        result["num_nextn_predict_layers"] = 0  # ``mtp.*`` tensors are not written
    pattern = architecture.pattern
    result |= {
        "model_type": "nemotron_h",
        "architectures": ["NemotronHForCausalLM"],
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden,
        "layer_norm_epsilon": architecture.norm_eps,
        "tie_word_embeddings": False,
        "hybrid_override_pattern": pattern,
        "num_hidden_layers": len(pattern),
        "max_position_embeddings": architecture.max_positions,
    }
    for kind in ("mamba", "attention", "mlp"):
        of_kind = [b for b in architecture.blocks if b.kind == kind]
        if of_kind:
            widths = AXIS_FIELDS[kind]
            result |= _sizes(max(of_kind, key=lambda b: [b.sizes[axis] for axis in widths]))
    if not architecture.homogeneous:
        result |= {
            "model_type": "nemotron_h_puzzle",
            "architectures": ["NemotronHPuzzleForCausalLM"],
            "auto_map": {
                "AutoConfig": "configuration_nemotron_h_puzzle.NemotronHPuzzleConfig",
                "AutoModelForCausalLM": "modeling_nemotron_h_puzzle.NemotronHPuzzleForCausalLM",
            },
            "block_configs": [_block_config(b, result) for b in architecture.blocks],
            "mtp_block_configs": [],
        }
    return result


def names(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Canonical name -> accepted names. Written are ``backbone.`` names, as on the hub, but
    ``model.`` ones where blocks of a kind differ: NVIDIA's released puzzle checkpoint has those,
    and transformers renames only for ``nemotron_h``.
    """
    roots = ROOTS if architecture.homogeneous else ROOTS[::-1]
    result: dict[str, tuple[str, ...]] = {}
    for tensor in architecture.tensors():
        if tensor.block is not None:
            theirs: tuple[str, ...] = (f"layers.{tensor.block}.{TENSORS[tensor.weight.name]}",)
        elif tensor.name == "head.weight":
            result[tensor.name] = ("lm_head.weight",)
            continue
        else:
            theirs = TOP[tensor.name]
        result[tensor.name] = tuple(f"{root}.{name}" for root in roots for name in theirs)
    return result


def extra_files(architecture: Architecture) -> dict[str, str]:
    """The config and model classes of ``nemotron_h_puzzle``, when blocks of a kind differ.

    Where FFN widths differ, also what other engines want changed in config.json: lists in place of
    ``block_configs``, one entry for each feed-forward block (SGLang 0.5.23, whose own puzzle class
    demands a mixture-of-experts block), or one for each block (TensorRT-LLM). Both are called
    ``intermediate_size``, which transformers wants to be one number.
    """
    if architecture.homogeneous:
        return {}
    folder = files("minipuzzle.families") / "_shipped"
    result = {
        f"{n}_nemotron_h_puzzle.py": (folder / f"{n}_nemotron_h_puzzle.py").read_text()
        for n in ("configuration", "modeling")
    }
    widths = [b.intermediate if isinstance(b, FeedForward) else 0 for b in architecture.blocks]
    if len(set(widths) - {0}) > 1:
        sglang = {
            "model_type": "nemotron_h",
            "architectures": ["NemotronHForCausalLM"],
            "block_configs": None,
            "intermediate_size": [width for width in widths if width],
        }
        result["overrides.sglang.json"] = json.dumps(sglang) + "\n"
        result["overrides.tensorrt_llm.json"] = json.dumps({"intermediate_size": widths}) + "\n"
    return result


def _block(kind: str, fields: dict[str, Any], hidden: int) -> Block:
    supported(fields)
    if kind == "mlp":
        return FeedForward(
            hidden=hidden,
            intermediate=positive(fields, "intermediate_size"),
            bias=flag(fields, "mlp_bias"),
        )
    if kind == "attention":
        q = positive(fields, "num_attention_heads")
        kv = q if fields["num_key_value_heads"] is None else positive(fields, "num_key_value_heads")
        divides("num_attention_heads", q, "num_key_value_heads", kv)
        # attention_bias is not read: transformers has no bias there, and a file that has one is
        # refused by its names
        return Attention(
            hidden=hidden, q_heads=q, kv_heads=kv, attn_head_dim=positive(fields, "head_dim")
        )
    heads, groups = positive(fields, "mamba_num_heads"), positive(fields, "n_groups")
    divides("mamba_num_heads", heads, "n_groups", groups)
    return Mamba2(
        hidden=hidden,
        heads=heads,
        head_dim=positive(fields, "mamba_head_dim"),
        groups=groups,
        state=positive(fields, "ssm_state_size"),
        conv_kernel=positive(fields, "conv_kernel"),
        conv_bias=flag(fields, "use_conv_bias"),
        chunk_size=positive(fields, "chunk_size"),
        proj_bias=flag(fields, "use_bias"),
    )


def _plain(block: Block) -> Block:
    """The block with nothing but what this family's config can say."""
    if isinstance(block, FeedForward):
        return FeedForward(hidden=block.hidden, intermediate=block.intermediate, bias=block.bias)
    if isinstance(block, Attention):
        return Attention(
            hidden=block.hidden,
            q_heads=block.q_heads,
            kv_heads=block.kv_heads,
            attn_head_dim=block.attn_head_dim,
        )
    return replace(block, residual_multiplier=1.0)


def _sizes(block: Block) -> dict[str, Any]:
    if isinstance(block, FeedForward):
        return {
            "intermediate_size": block.intermediate,
            "mlp_bias": block.bias,
            "mlp_hidden_act": "relu2",
        }
    if isinstance(block, Attention):
        return {
            "num_attention_heads": block.q_heads,
            "num_key_value_heads": block.kv_heads,
            "head_dim": block.attn_head_dim,
            "attention_bias": block.bias,
        }
    assert isinstance(block, Mamba2)
    return {
        "mamba_num_heads": block.heads,
        "mamba_head_dim": block.head_dim,
        "n_groups": block.groups,
        "mamba_n_groups": block.groups,
        "ssm_state_size": block.state,
        "conv_kernel": block.conv_kernel,
        "use_conv_bias": block.conv_bias,
        "chunk_size": block.chunk_size,
        "mamba_hidden_act": "silu",
        "use_bias": block.proj_bias,
    }


def _block_config(block: Block, top: dict[str, Any]) -> dict[str, Any]:
    own = {field: block.sizes[axis] for axis, field in AXIS_FIELDS[block.kind].items()}
    differs = {field: value for field, value in _sizes(block).items() if top[field] != value}
    return {"block_type": block.kind, **own, **differs}
