"""Nemotron-H as llama.cpp has it: fields and tensor names of its architecture ``nemotron_h``, and
of ``nemotron_h_moe`` where there are experts.

The kind of a layer follows from two arrays there: a feed-forward layer has a width, an attention
layer has KV heads, a Mamba-2 layer has neither. Source: llama.cpp (src/llama-model.cpp,
LLM_ARCH_NEMOTRON_H; convert_hf_to_gguf.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minipuzzle.arch import Architecture
from minipuzzle.export import gguf_experts
from minipuzzle.export.gguf_tensor import GgufTensor
from minipuzzle.kinds import Attention, Experts, FeedForward, Mamba2

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPES = {"nemotron_h": "nemotron_h", "nemotron_h_puzzle": "nemotron_h"}
"""model_type -> llama.cpp's architecture."""
WITH_EXPERTS = "nemotron_h_moe"


def model_name(model_type: str, architecture: Architecture) -> str:
    """llama.cpp's name of the architecture."""
    return WITH_EXPERTS if gguf_experts.of(architecture) else MODEL_TYPES[model_type]


def unsupported(model_type: str, architecture: Architecture) -> tuple[str, str] | None:
    """(what is there, what is allowed) for the first thing that llama.cpp cannot hold; None where
    it can hold all.
    """
    mamba = {b for b in architecture.blocks if isinstance(b, Mamba2)}
    sizes = {(b.heads, b.head_dim, b.groups, b.state, b.conv_kernel) for b in mamba}
    if len(sizes) > 1:
        heads = sorted({b.heads for b in mamba})
        return (
            f"Mamba-2 blocks of {len(sizes)} sizes (heads {heads})",
            "one size for all Mamba-2 blocks (scalar fields)",
        )
    if any(b.proj_bias for b in mamba):
        return "Mamba-2 projections with a bias (use_bias)", "Mamba-2 projections without bias"
    attention = {b.attn_head_dim for b in architecture.blocks if isinstance(b, Attention)}
    if len(attention) > 1:
        return (
            f"attention heads of {sorted(attention)} channels",
            "one head_dim for all attention blocks",
        )
    if (
        not mamba or not attention
    ):  # without attention xllamacpp 2026.10.11549 aborts when it loads the file
        return (
            f"no {'attention' if mamba else 'Mamba-2'} block",
            "a hybrid: at least one Mamba-2 and one attention block",
        )
    return gguf_experts.unsupported(architecture)


def add_fields(library: Any, writer: Any, architecture: Architecture) -> None:
    """Write the sizes, one for each layer where llama.cpp has an array."""
    blocks = architecture.blocks
    writer.add_block_count(len(blocks))
    attention = [b for b in blocks if isinstance(b, Attention)]
    if gguf_experts.of(architecture):
        gguf_experts.add_fields(library, writer, architecture)
    writer.add_feed_forward_length(
        [
            b.intermediate
            if isinstance(b, FeedForward)
            else b.expert_width
            if isinstance(b, Experts)
            else 0
            for b in blocks
        ]
    )
    # a 0 in the first layer would make llama.cpp ignore key_length
    writer.add_head_count(
        [b.q_heads if isinstance(b, Attention) else attention[0].q_heads for b in blocks]
    )
    writer.add_head_count_kv([b.kv_heads if isinstance(b, Attention) else 0 for b in blocks])
    writer.add_key_length(attention[0].attn_head_dim)
    writer.add_value_length(attention[0].attn_head_dim)
    writer.add_layer_norm_eps(architecture.norm_eps)
    writer.add_layer_norm_rms_eps(architecture.norm_eps)
    mamba = next(b for b in blocks if isinstance(b, Mamba2))
    writer.add_ssm_conv_kernel(mamba.conv_kernel)
    writer.add_ssm_inner_size(mamba.inner)
    writer.add_ssm_state_size(mamba.state)
    writer.add_ssm_group_count(mamba.groups)
    writer.add_ssm_time_step_rank(mamba.heads)


def tensors(architecture: Architecture, _name: str) -> list[GgufTensor]:
    """Every tensor of the file in order: the model's own, and a zero bias of the convolution where
    it has none.
    """
    result = [GgufTensor(name="token_embd.weight", source="embeddings.weight")]
    for i, block in enumerate(architecture.blocks):
        before = f"blocks.{i}."
        if isinstance(block, Mamba2):
            names = _mamba(block)
        elif isinstance(block, Experts):
            names = [(theirs, ours, _same, m) for theirs, ours, m in gguf_experts.names(block)]
        else:
            assert isinstance(block, Attention | FeedForward)
            names = _others(block)
        result.append(
            GgufTensor(
                name=f"blk.{i}.attn_norm.weight", source=before + "norm.weight", matrix=False
            )
        )
        for name, source, convert, matrix in names:
            result.append(
                GgufTensor(
                    name=f"blk.{i}.{name}", source=before + source, convert=convert, matrix=matrix
                )
            )
    result.append(GgufTensor(name="output_norm.weight", source="final_norm.weight", matrix=False))
    if not architecture.tied_head:
        result.append(GgufTensor(name="output.weight", source="head.weight"))
    return result


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _mamba(block: Mamba2) -> list[tuple[str, str, Any, bool]]:
    bias = (
        ("conv.bias", _same)
        if block.conv_bias
        else ("conv.weight", lambda w: w.new_zeros(w.shape[0]))
    )
    return [
        ("ssm_in.weight", "in_proj.weight", _same, True),
        ("ssm_conv1d.weight", "conv.weight", lambda w: w.squeeze(1), False),
        ("ssm_conv1d.bias", *bias, False),
        ("ssm_dt.bias", "dt_bias", _same, False),
        ("ssm_a", "A_log", lambda a: -a.exp()[:, None], False),
        ("ssm_d", "D", lambda d: d[:, None], False),
        ("ssm_norm.weight", "gated_norm.weight", lambda w: w.view(block.groups, -1), False),
        ("ssm_out.weight", "out_proj.weight", _same, True),
    ]


def _others(block: Attention | FeedForward) -> list[tuple[str, str, Any, bool]]:
    if isinstance(block, FeedForward):
        names = {"ffn_up": "up_proj", "ffn_down": "down_proj"}
    else:
        names = {
            "attn_q": "q_proj",
            "attn_k": "k_proj",
            "attn_v": "v_proj",
            "attn_output": "o_proj",
        }
    kinds = ("weight", "bias") if block.bias else ("weight",)
    return [
        (f"{theirs}.{kind}", f"{ours}.{kind}", _same, kind == "weight")
        for theirs, ours in names.items()
        for kind in kinds
    ]
