"""Nemotron-H (arXiv:2504.03624) and Nemotron 3: every layer is one block of Mamba-2, relu^2
feed-forward, a mixture of relu^2 experts or attention.

Blocks of one kind with different sizes are written as ``block_configs`` under the type
``nemotron_h_puzzle``, the schema that vLLM, SGLang, TensorRT-LLM and llama.cpp read, with the two
classes transformers needs beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.arch.architecture import Tensor
from minipuzzle.families._fields import epsilon, error, kept, positive
from minipuzzle.families._nemotron_h_blocks import AXIS_FIELDS, block, block_config, plain, sizes
from minipuzzle.families._nemotron_h_fields import FIELDS, canonical, layers, of_block
from minipuzzle.families._nemotron_h_mtp import MTP, mtp, mtp_config, mtp_place
from minipuzzle.families._parts import EXPERT, Name, named
from minipuzzle.kinds import Experts, FeedForward

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
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
    "router.weight": "mixer.gate.weight",
    "router.correction": "mixer.gate.e_score_correction_bias",
    **{
        f"{ours}_proj.{t}": f"mixer.{theirs}_proj.{t}"
        for ours, theirs in (
            ("shared_up", "shared_experts.up"),
            ("shared_down", "shared_experts.down"),
            ("latent_in", "fc1_latent"),
            ("latent_out", "fc2_latent"),
        )
        for t in ("weight", "bias")
    },
}
STACKS = {"experts.up_proj": "up_proj", "experts.down_proj": "down_proj"}
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
    "num_local_experts",
    "mtp_hybrid_override_pattern",
    "mtp_layers_block_type",
    "mtp_block_configs",
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
    blocks = [block(kind, of_block(fields, own), hidden) for kind, own in pairs]
    alike = [block(kind, fields, hidden) for kind in kinds] if own_type else blocks
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
        mtp=mtp(fields, hidden),
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
    steps = [block for step in architecture.mtp for block in step]
    if architecture.tied_head or any(b != plain(b) for b in (*architecture.blocks, *steps)):
        raise error(
            "nemotron_h has no tied head and no bias in attention.",
            got="an architecture with one of them",
            allowed="a head of its own, attention without bias or positions, relu2 without a gate",
        )
    result = {k: v for k, v in kept(original).items() if k not in REWRITTEN}
    if result.get("num_nextn_predict_layers"):
        result["num_nextn_predict_layers"] = 0
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
    for kind in AXIS_FIELDS:
        of_kind = [b for b in architecture.blocks if b.kind == kind]
        of_kind = of_kind or [b for b in steps if b.kind == kind]
        if of_kind:
            widths = AXIS_FIELDS[kind]
            result |= sizes(max(of_kind, key=lambda b: [b.sizes.get(axis, 0) for axis in widths]))
    if not architecture.homogeneous:
        result |= {
            "model_type": "nemotron_h_puzzle",
            "architectures": ["NemotronHPuzzleForCausalLM"],
            "auto_map": {
                "AutoConfig": "configuration_nemotron_h_puzzle.NemotronHPuzzleConfig",
                "AutoModelForCausalLM": "modeling_nemotron_h_puzzle.NemotronHPuzzleForCausalLM",
            },
            "block_configs": [block_config(b, result) for b in architecture.blocks],
            "mtp_block_configs": [],
        }
    return result | mtp_config(architecture, result)


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical name -> accepted names. Written are ``backbone.`` names, as on the hub, but
    ``model.`` ones where blocks of a kind differ: NVIDIA's released puzzle checkpoint has those,
    and transformers renames only for ``nemotron_h``.
    """
    roots = ROOTS if architecture.homogeneous else ROOTS[::-1]
    result: dict[str, tuple[Name, ...]] = {}
    for tensor in architecture.tensors():
        if tensor.weight.name in STACKS:
            bases = [f"{root}.layers.{tensor.block}." for root in roots]
            result[tensor.name] = _stack(tensor, bases)
            continue
        if tensor.block is not None:
            theirs: tuple[str, ...] = (f"layers.{tensor.block}.{TENSORS[tensor.weight.name]}",)
        elif tensor.name == "head.weight":
            result[tensor.name] = ("lm_head.weight",)
            continue
        else:
            theirs = TOP[tensor.name]
        result[tensor.name] = tuple(f"{root}.{name}" for root in roots for name in theirs)
    for tensor in architecture.mtp_tensors():
        base, name = mtp_place(tensor.name, architecture)
        if name in STACKS:
            result[tensor.name] = _stack(tensor, [base])
        else:
            result[tensor.name] = (base + (MTP.get(name) or TENSORS[name]),)
    return result


def extra_files(architecture: Architecture) -> dict[str, str]:
    """The config and model classes of ``nemotron_h_puzzle``, when blocks of a kind differ.

    Where FFN widths differ, also what other engines want changed in config.json: lists in place of
    ``block_configs``, one entry for each feed-forward block (SGLang 0.5.23, whose own puzzle class
    demands a mixture-of-experts block and reads from ``block_configs`` only what those say), or one
    for each block (TensorRT-LLM). Both are called
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
        sglang: dict[str, Any] = {"intermediate_size": [width for width in widths if width]}
        if not any(isinstance(b, Experts) for b in architecture.blocks):
            sglang |= {
                "model_type": "nemotron_h",
                "architectures": ["NemotronHForCausalLM"],
                "block_configs": None,
            }
        result["overrides.sglang.json"] = json.dumps(sglang) + "\n"
        result["overrides.tensorrt_llm.json"] = json.dumps({"intermediate_size": widths}) + "\n"
    return result


def _stack(tensor: Tensor, bases: Sequence[str]) -> tuple[Name, ...]:
    """One tensor for each expert, as on the hub, or a stack of them, as in transformers' memory."""
    name, count = STACKS[tensor.weight.name], tensor.shape[0]
    homes = [f"{base}mixer.experts." for base in bases]
    singles = [named(f"{EXPERT}.{name}.weight", home, count) for home in homes]
    return (*singles, *(f"{home}{name}" for home in homes))
