"""Qwen3-Next and Qwen 3.5 as llama.cpp has them: ``qwen3next``, ``qwen35`` and ``qwen35moe``. A
layer there is our mixer and what follows on it.

Norms are stored with their 1 added, A as -exp(A_log). Where a key's head has several heads of
values, ``qwen35`` wants them tiled: the first of every key, the second of every key, ...;
``qwen3next`` wants them as they are, and b and a key by key. Source: llama.cpp, conversion/qwen.py
(Qwen3NextModel, _LinearAttentionVReorderBase), src/models/qwen3next.cpp, qwen35.cpp, qwen35moe.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from minipuzzle.arch import Architecture
from minipuzzle.export.engines.base import varying
from minipuzzle.export.gguf_tensor import GgufTensor
from minipuzzle.kinds import Attention, Block, DeltaNet, Experts, FeedForward

if TYPE_CHECKING:
    from torch import Tensor

    Part = tuple[str, str, Callable[[Tensor], Tensor], bool]
    """llama.cpp's name, ours, what is done to it, whether it is a matrix of products."""

B = TypeVar("B", bound=Block)
NEXT = "qwen3next"
MODEL_TYPES = {
    "qwen3_next": NEXT,
    "qwen3_5_text": "qwen35",
    "qwen3_5": "qwen35",
    "qwen3_5_moe_text": "qwen35moe",
    "qwen3_5_moe": "qwen35moe",
}
"""model_type -> llama.cpp's architecture."""
KEY_EPSILON = 1e-6
"""transformers' in the norms of queries and keys; llama.cpp takes rms_norm_eps there too."""
RECURRENT = "{arch}.attention.recurrent_layers"


def model_name(model_type: str, architecture: Architecture) -> str:
    """llama.cpp's name of the architecture."""
    return MODEL_TYPES[model_type]


def unsupported(model_type: str, architecture: Architecture) -> tuple[str, str] | None:
    """(what is there, what is allowed) for the first thing that llama.cpp cannot hold; None where
    it can hold all.
    """
    deltas, attention = _of(architecture, DeltaNet), _of(architecture, Attention)
    if not deltas or not attention:
        missing = "attention" if deltas else "DeltaNet"
        return f"no {missing} block", "a hybrid: at least one DeltaNet and one attention block"
    apart = varying(architecture)
    if apart:
        return (
            f"blocks of a kind that differ in {', '.join(sorted(apart))}",
            "one size for all blocks of a kind (scalar fields)",
        )
    if deltas[0].key_dim != deltas[0].value_dim:
        return (
            f"heads of {deltas[0].key_dim} channels of keys and {deltas[0].value_dim} of values",
            "as many of both (one field, ssm.state_size)",
        )
    if architecture.norm_eps != KEY_EPSILON:
        return f"rms_norm_eps {architecture.norm_eps}", f"{KEY_EPSILON}, which it norms keys with"
    if any(block.bias or block.out_bias for block in attention):
        return "attention with biases (attention_bias)", "attention without"
    ropes = {block.rope for block in attention}
    rope = next(iter(ropes))
    if len(ropes) > 1 or rope is None or rope.kind != "default":
        return f"rope_type {rope.kind if rope else 'none'}", "default"
    experts = _of(architecture, Experts)
    if any(not block.normalised for block in experts):
        return "gates that do not sum to 1 (norm_topk_prob)", "gates that do"
    if model_type == "qwen3_next" and _of(architecture, FeedForward):
        return "dense feed-forward blocks", "experts in every layer"
    return None


def add_fields(library: Any, writer: Any, architecture: Architecture) -> None:
    """Write the sizes, which layers are DeltaNet, and the rotary embedding."""
    mixers = architecture.blocks[::2]
    recurrent = [isinstance(block, DeltaNet) for block in mixers]
    attention, delta = _of(architecture, Attention)[0], _of(architecture, DeltaNet)[0]
    writer.add_block_count(len(mixers))
    writer.add_head_count(attention.q_heads)
    writer.add_head_count_kv(attention.kv_heads)
    writer.add_key_length(attention.attn_head_dim)
    writer.add_value_length(attention.attn_head_dim)
    writer.add_layer_norm_rms_eps(architecture.norm_eps)
    writer.add_array(RECURRENT.format(arch=writer.arch), recurrent)
    writer.add_ssm_conv_kernel(delta.conv_kernel)
    writer.add_ssm_state_size(delta.key_dim)
    writer.add_ssm_group_count(delta.key_groups)
    writer.add_ssm_time_step_rank(delta.heads)
    writer.add_ssm_inner_size(delta.values)
    assert attention.rope is not None
    writer.add_rope_dimension_count(attention.rope.dim)
    writer.add_rope_freq_base(attention.rope.theta)
    if writer.arch != NEXT:
        pairs = attention.rope.dim // 2  # by time, height and width in turn: one in a text
        writer.add_rope_dimension_sections([(pairs + 2 - i) // 3 for i in range(3)] + [0])
    second = architecture.blocks[1]
    if isinstance(second, FeedForward):
        writer.add_feed_forward_length(second.intermediate)
    if isinstance(second, Experts):
        writer.add_expert_count(second.experts)
        writer.add_expert_used_count(second.top_k)
        writer.add_expert_feed_forward_length(second.expert_width)
        writer.add_expert_shared_feed_forward_length(second.shared_width)


def tensors(architecture: Architecture, name: str) -> list[GgufTensor]:
    """Every tensor of the file in order, for llama.cpp's architecture ``name``."""
    result = [GgufTensor(name="token_embd.weight", source="embeddings.weight")]
    for i, block in enumerate(architecture.blocks):
        norm = "post_attention_norm" if i % 2 else "attn_norm"
        parts = [(f"{norm}.weight", "norm.weight", _plus_one, False), *_parts(block, name)]
        result += [
            GgufTensor(
                name=f"blk.{i // 2}.{theirs}",
                source=f"blocks.{i}.{ours}",
                convert=convert,
                matrix=matrix,
            )
            for theirs, ours, convert, matrix in parts
        ]
    result.append(
        GgufTensor(
            name="output_norm.weight", source="final_norm.weight", convert=_plus_one, matrix=False
        )
    )
    if not architecture.tied_head:
        result.append(GgufTensor(name="output.weight", source="head.weight"))
    return result


def _parts(block: Block, name: str) -> list[Part]:
    """The tensors of a block, but its norm."""
    if isinstance(block, DeltaNet):
        return _delta(block, name)
    if isinstance(block, Experts):
        return _experts()
    if isinstance(block, Attention):
        return [
            ("attn_q.weight", "q_proj.weight", _same, True),  # of a head its query, then its gate
            ("attn_k.weight", "k_proj.weight", _same, True),
            ("attn_v.weight", "v_proj.weight", _same, True),
            ("attn_output.weight", "o_proj.weight", _same, True),
            ("attn_q_norm.weight", "q_norm.weight", _plus_one, False),
            ("attn_k_norm.weight", "k_norm.weight", _plus_one, False),
        ]
    projections = ("gate", "up", "down")
    return [(f"ffn_{p}.weight", f"{p}_proj.weight", _same, True) for p in projections]


def _delta(block: DeltaNet, name: str) -> list[Part]:
    keys, convolved, heads = 2 * block.keys, block.conv_channels, block.heads
    groups, each, width = block.key_groups, block.group_heads, block.value_dim

    def tiled(tensor: Tensor, channels: int, dim: int = 0) -> Tensor:
        if name == NEXT:
            return tensor
        apart = tensor.unflatten(dim, (groups, each, channels))
        return apart.transpose(dim, dim + 1).flatten(dim, dim + 2)  # same shape as tensor

    def qkv(tensor: Tensor) -> Tensor:
        import torch

        values = tiled(tensor[keys:convolved], width)
        return torch.cat([tensor[:keys], values])  # [convolved, ..]

    gates: list[Part] = [
        ("ssm_beta.weight", "in_proj_ba.weight", lambda t: tiled(t[:heads], 1), False),
        ("ssm_alpha.weight", "in_proj_ba.weight", lambda t: tiled(t[heads:], 1), False),
    ]
    if name == NEXT:  # [b or a, groups, each, hidden] to [groups, b or a, each, hidden]

        def by_key(t: Tensor) -> Tensor:
            return t.unflatten(0, (2, groups, each)).transpose(0, 1).flatten(0, 2)

        gates = [("ssm_ba.weight", "in_proj_ba.weight", by_key, False)]
    return [
        ("attn_qkv.weight", "in_proj_qkvz.weight", qkv, True),
        ("attn_gate.weight", "in_proj_qkvz.weight", lambda t: tiled(t[convolved:], width), True),
        *gates,
        ("ssm_conv1d.weight", "conv.weight", lambda t: qkv(t.squeeze(1)), False),
        ("ssm_dt.bias", "dt_bias", lambda t: tiled(t, 1), False),
        ("ssm_a", "A_log", lambda t: tiled(-t.exp(), 1), False),
        ("ssm_norm.weight", "gated_norm.weight", _same, False),
        ("ssm_out.weight", "out_proj.weight", lambda t: tiled(t, width, dim=1), True),
    ]


def _experts() -> list[Part]:
    found: list[Part] = [
        ("ffn_gate_inp.weight", "router.weight", _same, False),
        ("ffn_gate_inp_shexp.weight", "shared_gate.weight", lambda t: t.squeeze(0), False),
    ]
    for theirs, up, down in (  # gate, then up, along the rows of [experts, rows, columns] too
        ("exps", "experts.gate_up_proj", "experts.down_proj"),
        ("shexp", "shared_gate_up_proj.weight", "shared_down_proj.weight"),
    ):
        found += [
            (f"ffn_gate_{theirs}.weight", up, lambda t: t.chunk(2, dim=-2)[0], True),
            (f"ffn_up_{theirs}.weight", up, lambda t: t.chunk(2, dim=-2)[1], True),
            (f"ffn_down_{theirs}.weight", down, _same, True),
        ]
    return found


def _of(architecture: Architecture, kind: type[B]) -> list[B]:
    return [block for block in architecture.blocks if isinstance(block, kind)]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _plus_one(tensor: Tensor) -> Tensor:
    return tensor + 1
