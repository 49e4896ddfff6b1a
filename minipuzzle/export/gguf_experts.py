"""Mixtures of experts as llama.cpp's ``nemotron_h_moe`` has them: a stack of experts is one tensor.

Source: llama.cpp (LLM_ARCH_NEMOTRON_H_MOE; its convert_hf_to_gguf.py). Widths of experts and how
many are chosen may differ from block to block there since #25444; their number may not.
"""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Block, Experts, FeedForward

TENSORS = {
    "router.weight": "ffn_gate_inp.weight",
    "router.correction": "exp_probs_b.bias",
    "experts.up_proj": "ffn_up_exps.weight",
    "experts.down_proj": "ffn_down_exps.weight",
    "shared_up_proj.weight": "ffn_up_shexp.weight",
    "shared_down_proj.weight": "ffn_down_shexp.weight",
    "latent_in_proj.weight": "ffn_latent_down.weight",
    "latent_out_proj.weight": "ffn_latent_up.weight",
}
ONE_SIZE = {
    "experts": "numbers of experts",
    "shared_width": "widths of the shared expert",
    "latent": "latent sizes",
    "router_groups": "numbers of router groups",
    "router_groups_kept": "numbers of chosen groups",
    "scaling": "scaling factors",
    "normalised": "rules for the sum of the gates",
}


def of(architecture: Architecture) -> list[Experts]:
    """The blocks of experts."""
    return [block for block in architecture.blocks if isinstance(block, Experts)]


def unsupported(architecture: Architecture) -> tuple[str, str] | None:
    """(what is there, what is allowed) for the first thing that llama.cpp cannot hold."""
    blocks = of(architecture)
    for field, what in ONE_SIZE.items():
        found = sorted({getattr(block, field) for block in blocks})
        if len(found) > 1:
            return f"{what} {found}", f"one of these {what} in all blocks of experts (scalar field)"
    if any(block.bias for block in blocks):
        return "experts' projections with a bias (mlp_bias)", "no bias beside experts"
    if blocks and any(isinstance(block, FeedForward) for block in architecture.blocks):
        return "dense feed-forward blocks beside experts", "blocks of experts alone"
    return None


def add_fields(library: Any, writer: Any, architecture: Architecture) -> None:
    """Write the sizes of experts; an array over all layers where blocks differ."""
    blocks = of(architecture)
    first, keys = blocks[0], library.Keys.LLM
    for key, values in (
        (keys.EXPERT_FEED_FORWARD_LENGTH, [_size(b, "expert_width") for b in architecture.blocks]),
        (keys.EXPERT_USED_COUNT, [_size(b, "top_k") for b in architecture.blocks]),
    ):
        name = key.format(arch=writer.arch)
        if len(set(values) - {0}) > 1:
            writer.add_array(name, values)
        else:
            writer.add_uint32(name, max(values))
    writer.add_expert_count(first.experts)
    writer.add_expert_shared_count(1 if first.shared_width else 0)
    writer.add_expert_shared_feed_forward_length(first.shared_width)
    writer.add_expert_group_count(first.router_groups)
    writer.add_expert_group_used_count(first.router_groups_kept)
    writer.add_expert_weights_norm(first.normalised)
    writer.add_expert_weights_scale(first.scaling)
    writer.add_expert_gating_func(library.ExpertGatingFuncType.SIGMOID)
    if first.latent:
        writer.add_moe_latent_size(first.latent)


def names(block: Experts) -> list[tuple[str, str, bool]]:
    """(llama.cpp's name, ours, whether it is a matrix of products) of each tensor but the norm."""
    matrices = {f"{name}.weight" for name in block.projections} | set(block.stacks)
    return [
        (TENSORS[w.name], w.name, w.name in matrices)
        for w in block.weights
        if w.name != "norm.weight"
    ]


def _size(block: Block, field: str) -> int:
    return int(getattr(block, field)) if isinstance(block, Experts) else 0
