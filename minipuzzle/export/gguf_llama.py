"""Llama, Mistral, Qwen 2 and Qwen 3 as llama.cpp has them: a layer there is our attention block and
the feed-forward after it.

llama.cpp's ``llama`` turns neighbouring channels of a head where transformers turns channel k with
k + dim / 2: rows of q and k are reordered for it; ``qwen2`` and ``qwen3`` turn as transformers
does. Source: llama.cpp, convert_hf_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minipuzzle.arch import Architecture
from minipuzzle.export.gguf_tensor import GgufTensor
from minipuzzle.kinds import Attention, Block, FeedForward, Rope, rope_speeds

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""model_type -> llama.cpp's architecture."""
PARTS = {
    "attention": {
        "norm": "attn_norm",
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "q_norm": "attn_q_norm",
        "k_norm": "attn_k_norm",
    },
    "mlp": {
        "norm": "ffn_norm",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
    },
}
FREQUENCY_FACTORS = "rope_freqs.weight"


def model_name(model_type: str, architecture: Architecture) -> str:
    """llama.cpp's name of the architecture."""
    return MODEL_TYPES[model_type]


def unsupported(model_type: str, architecture: Architecture) -> tuple[str, str] | None:
    """(what is there, what is allowed) for the first thing that llama.cpp cannot hold; None where
    it can hold all.
    """
    attention, ffn = (
        _attention(architecture),
        [b for b in architecture.blocks if isinstance(b, FeedForward)],
    )
    ropes = {b.rope for b in attention}
    rope = next(iter(ropes), None)
    if len(ropes) != 1 or rope is None or rope.dim != attention[0].attn_head_dim:
        return (
            "blocks without rotary embedding, or with another, or with part of a head turning",
            "one for all, of whole heads",
        )
    if rope.kind not in ("default", "linear", "llama3"):
        return f"rope_type {rope.kind}", "default, linear, llama3"
    if any(b.seen(architecture.max_positions) < architecture.max_positions for b in attention):
        return "a sliding window", "none, or one of max_position_embeddings"
    if any(b.qk_norm and b.bias for b in attention):
        return "norms of q and k together with biases", "one of them"
    if any(not b.gated or b.packed or b.activation != "silu" for b in ffn):
        return "another feed-forward than SwiGLU", "down(silu(gate(x)) * up(x))"
    return None


def add_fields(library: Any, writer: Any, architecture: Architecture) -> None:
    """Write the sizes, one for each layer where llama.cpp has an array, and the rotary
    embedding.
    """
    attention = _attention(architecture)
    writer.add_block_count(len(architecture.blocks) // 2)
    writer.add_feed_forward_length(
        [b.intermediate for b in architecture.blocks if isinstance(b, FeedForward)]
    )
    writer.add_head_count([b.q_heads for b in attention])
    writer.add_head_count_kv([b.kv_heads for b in attention])
    writer.add_key_length(attention[0].attn_head_dim)
    writer.add_value_length(attention[0].attn_head_dim)
    writer.add_layer_norm_rms_eps(architecture.norm_eps)
    rope = attention[0].rope
    assert rope is not None
    writer.add_rope_dimension_count(rope.dim)
    writer.add_rope_freq_base(rope.theta)
    if rope.kind == "linear":
        writer.add_rope_scaling_type(library.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.factor)


def tensors(architecture: Architecture, name: str) -> list[GgufTensor]:
    """Every tensor of the file in order, for llama.cpp's architecture ``name``."""
    result = [GgufTensor(name="token_embd.weight", source="embeddings.weight")]
    rope = _attention(architecture)[0].rope
    if rope is not None and rope.kind == "llama3":
        result.append(
            GgufTensor(
                name=FREQUENCY_FACTORS,
                source="final_norm.weight",
                convert=_factors(rope),
                matrix=False,
            )
        )
    for i, block in enumerate(architecture.blocks):
        for weight in block.weights:
            part, _, kind = weight.name.rpartition(".")
            result.append(
                GgufTensor(
                    name=f"blk.{i // 2}.{PARTS[block.kind][part]}.{kind}",
                    source=f"blocks.{i}.{weight.name}",
                    convert=_turned(block, part) if name == "llama" else _same,
                    matrix=len(weight.dims) == 2,
                )
            )
    result.append(GgufTensor(name="output_norm.weight", source="final_norm.weight", matrix=False))
    if not architecture.tied_head:
        result.append(GgufTensor(name="output.weight", source="head.weight"))
    return result


def _attention(architecture: Architecture) -> list[Attention]:
    return [b for b in architecture.blocks if isinstance(b, Attention)]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _turned(block: Block, part: str) -> Callable[[Tensor], Tensor]:
    """Rows of each head from (0 .. dim/2, dim/2 .. dim) to (0, dim/2, 1, dim/2 + 1, ...)."""
    if not isinstance(block, Attention) or part not in ("q_proj", "k_proj"):
        return _same
    half = block.attn_head_dim // 2
    return lambda t: t.reshape(-1, 2, half, *t.shape[1:]).transpose(1, 2).reshape(t.shape)


def _factors(rope: Rope) -> Callable[[Tensor], Tensor]:
    """What llama.cpp divides each pair's speed by, whatever tensor it is called with."""
    import torch

    plain = rope_speeds(Rope(dim=rope.dim, theta=rope.theta), 0)
    factors = torch.from_numpy(plain / rope_speeds(rope, 0)).float()
    return lambda _: factors
