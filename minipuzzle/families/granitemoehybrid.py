"""Granite 4 hybrid, its dense models: a layer is Mamba-2 or attention, then SwiGLU with gate and up in one matrix; what each
block adds, embeddings, scores and logits have multipliers of their own. Mixture-of-experts models are refused."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture, Attention, Block, FeedForward, Rules
from minipuzzle.families._fields import epsilon, error, number, only, positive, read_rope, write_rope
from minipuzzle.families._layers import attention_sizes, checked, first, layer_names, read_mamba, write_mamba
from minipuzzle.families.bamba import TENSORS as BAMBA_TENSORS
from minipuzzle.families.llama import TOP, biases

TENSORS = {
    **BAMBA_TENSORS,
    "mlp": {"norm.weight": "post_attention_layernorm.weight", "gate_up_proj.weight": "shared_mlp.input_linear.weight",
            "down_proj.weight": "shared_mlp.output_linear.weight"},
}  # fmt: skip
RULES = Rules(paired=True, own_sizes=False, fixed=("q_heads", "kv_heads", "hidden"), whole_expansion=True)
KINDS = {"mamba": "mamba", "linear_attention": "mamba", "attention": "attention", "full_attention": "attention"}


def architecture(config: dict[str, Any]) -> Architecture:
    """The architecture of a config.json; what has a default in transformers has it here, but for the model's size.

    Raises: UserError for experts, impossible sizes, another activation, an unknown kind of layer or type of RoPE.
    """
    if config.get("num_local_experts", 8):
        raise error("Mixture-of-experts layers are not supported yet (num_local_experts).",
                    got=config.get("num_local_experts", "8, the default"), allowed="0: the dense models")  # fmt: skip
    only(config, {"hidden_act": "silu"})
    hidden, positions = positive(config, "hidden_size"), positive(config, "max_position_embeddings", 2048)
    residual = number(config, "residual_multiplier", 1.0)
    q, kv, head_dim = attention_sizes(config, hidden)
    bias = bool(config.get("attention_bias", False))
    turned = config.get("position_embedding_type") == "rope"
    mixers: dict[str, Block] = {
        "mamba": read_mamba(config, hidden, residual),
        "attention": Attention(
            hidden=hidden, q_heads=q, kv_heads=kv, attn_head_dim=head_dim, bias=bias, out_bias=bias,
            rope=read_rope(config, head_dim, positions) if turned else None,
            scale=number(config, "attention_multiplier", 1.0), residual_multiplier=residual,
        ),
    }  # fmt: skip
    mlp = FeedForward(hidden=hidden, intermediate=positive(config, "shared_intermediate_size", 1024), gated=True, packed=True,
                      activation="silu", residual_multiplier=residual)  # fmt: skip
    return Architecture(
        vocab_size=positive(config, "vocab_size"), hidden=hidden,
        blocks=tuple(block for kind in _layers(config) for block in (mixers[kind], mlp)),
        norm_eps=epsilon(config, "rms_norm_eps", 1e-6), tied_head=bool(config.get("tie_word_embeddings", False)),
        max_positions=positions, embedding_multiplier=number(config, "embedding_multiplier", 1.0),
        logits_divisor=number(config, "logits_scaling", 1.0), rules=RULES,
    )  # fmt: skip


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an architecture. Raises: UserError for one that no such config can say."""
    attention, mlp = first(architecture, "attention"), first(architecture, "mlp")
    kinds = ["attention" if block.kind == "attention" else "mamba" for block in architecture.blocks[::2]]
    result = {k: v for k, v in original.items() if k not in ("auto_map", "time_step_limit", "layers_block_type")} | {
        "model_type": "granitemoehybrid", "architectures": ["GraniteMoeHybridForCausalLM"], "num_local_experts": 0,
        "vocab_size": architecture.vocab_size, "hidden_size": architecture.hidden, "num_hidden_layers": len(kinds),
        "layer_types": kinds, "rms_norm_eps": architecture.norm_eps, "tie_word_embeddings": architecture.tied_head,
        "max_position_embeddings": architecture.max_positions, "hidden_act": "silu",
        "embedding_multiplier": architecture.embedding_multiplier, "logits_scaling": architecture.logits_divisor,
        **write_mamba(first(architecture, "mamba")),
    }  # fmt: skip
    if attention is not None:
        result |= {
            "num_attention_heads": attention.q_heads, "num_key_value_heads": attention.kv_heads,
            "attention_bias": biases(architecture)["attention_bias"], "attention_multiplier": attention.scale,
            "position_embedding_type": None if attention.rope is None else "rope", **write_rope(attention.rope),
        }  # fmt: skip
    if mlp is not None:
        result |= {"shared_intermediate_size": mlp.intermediate, "residual_multiplier": mlp.residual_multiplier}
    return checked(result, architecture)


def names(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Canonical tensor name -> the one name in files."""
    return layer_names(architecture, TENSORS, TOP)


def extra_files(architecture: Architecture) -> dict[str, str]:
    """None: transformers knows the type."""
    return {}


def _layers(config: dict[str, Any]) -> list[str]:
    count = positive(config, "num_hidden_layers")
    said = config.get("layer_types") or config.get("layers_block_type") or ["mamba"] * count
    if not isinstance(said, list) or len(said) != count or not all(kind in KINDS for kind in said):
        raise error("layer_types does not name each layer's kind.", got=said, allowed=f"{count} of {', '.join(KINDS)}")
    return [KINDS[kind] for kind in said]
