"""Granite 4 hybrid: a layer is Mamba-2 or attention, then SwiGLU with gate and up in one matrix, or
SwiGLU experts and such a shared one beside them; what each block adds, embeddings, scores and
logits have multipliers of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle.arch import Architecture, Rules
from minipuzzle.families._fields import (
    activation,
    epsilon,
    error,
    flag,
    kept,
    number,
    own,
    positive,
    possible,
    whole,
)
from minipuzzle.families._layers import (
    LAYER_FIELDS,
    MAMBA_FIELDS,
    Tensors,
    attention_sizes,
    checked,
    first,
    layer_names,
    read_mamba,
    write_mamba,
)
from minipuzzle.families._parts import Name
from minipuzzle.families._rope_fields import read_rope, write_rope
from minipuzzle.families._rules import WHOLE_EXPANSION
from minipuzzle.families.bamba import TENSORS as BAMBA_TENSORS
from minipuzzle.families.llama import TOP, biases
from minipuzzle.kinds import Attention, Block, Experts, FeedForward

FIELDS = (
    LAYER_FIELDS
    | MAMBA_FIELDS
    | {
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "attention_bias": False,
        "num_local_experts": 8,
        "num_experts_per_tok": None,
        "intermediate_size": None,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "shared_intermediate_size": 1024,
        "position_embedding_type": None,
        "layer_types": None,
        "layers_block_type": None,
    }
)
TENSORS: Tensors = {
    **BAMBA_TENSORS,
    "mlp": {
        "norm.weight": "post_attention_layernorm.weight",
        "gate_up_proj.weight": "shared_mlp.input_linear.weight",
        "down_proj.weight": "shared_mlp.output_linear.weight",
    },
    "moe": {
        "norm.weight": "post_attention_layernorm.weight",
        "shared_gate_up_proj.weight": "shared_mlp.input_linear.weight",
        "shared_down_proj.weight": "shared_mlp.output_linear.weight",
        # the hub's names, and those in transformers' memory
        "router.weight": ("block_sparse_moe.router.layer.weight", "block_sparse_moe.router.weight"),
        "experts.gate_up_proj": (
            "block_sparse_moe.input_linear.weight",
            "block_sparse_moe.experts.gate_up_proj",
        ),
        "experts.down_proj": (
            "block_sparse_moe.output_linear.weight",
            "block_sparse_moe.experts.down_proj",
        ),
    },
}
RULES = Rules(
    paired=True,
    per_block_sizes=False,
    fixed=("q_heads", "kv_heads", "hidden"),
    multiples=(WHOLE_EXPANSION,),
)
KINDS = {
    "mamba": "mamba",
    "linear_attention": "mamba",
    "attention": "attention",
    "full_attention": "attention",
}


def architecture(config: dict[str, Any]) -> Architecture:
    """The architecture of a config.json; what has a default in transformers has it here, but for
    the model's size.

    Raises: UserError for impossible sizes, another activation, an unknown kind of layer or type of
    RoPE.
    """
    fields = own(config, FIELDS)
    activation(fields, "hidden_act", "silu")
    hidden, bias = positive(fields, "hidden_size"), flag(fields, "attention_bias")
    residual = number(fields, "residual_multiplier")
    q, kv, head_dim = attention_sizes(fields, hidden)
    turned = fields["position_embedding_type"] == "rope"
    mixers: dict[str, Block] = {
        "mamba": read_mamba(fields, hidden, residual),
        "attention": Attention(
            hidden=hidden,
            q_heads=q,
            kv_heads=kv,
            attn_head_dim=head_dim,
            bias=bias,
            out_bias=bias,
            rope=read_rope(fields, head_dim) if turned else None,
            scale=number(fields, "attention_multiplier"),
            residual_multiplier=residual,
        ),
    }
    second = _second(fields, hidden, residual)
    return Architecture(
        vocab_size=positive(fields, "vocab_size"),
        hidden=hidden,
        blocks=tuple(block for kind in _layers(fields) for block in (mixers[kind], second)),
        norm_eps=epsilon(fields, "rms_norm_eps"),
        tied_head=flag(fields, "tie_word_embeddings"),
        max_positions=positive(fields, "max_position_embeddings"),
        embedding_multiplier=number(fields, "embedding_multiplier"),
        logits_divisor=number(fields, "logits_scaling"),
        rules=RULES,
    )


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an architecture. Raises: UserError for one that no such config can say."""
    attention, mlp = first(architecture, "attention"), first(architecture, "mlp")
    moe = first(architecture, "moe")
    kinds = [
        "attention" if block.kind == "attention" else "mamba" for block in architecture.blocks[::2]
    ]
    result = kept(original) | {
        "model_type": "granitemoehybrid",
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "num_local_experts": 0,
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden,
        "num_hidden_layers": len(kinds),
        "layer_types": kinds,
        "rms_norm_eps": architecture.norm_eps,
        "tie_word_embeddings": architecture.tied_head,
        "max_position_embeddings": architecture.max_positions,
        "hidden_act": "silu",
        "embedding_multiplier": architecture.embedding_multiplier,
        "logits_scaling": architecture.logits_divisor,
        **write_mamba(first(architecture, "mamba")),
        "time_step_limit": [0.0, float("inf")],  # mlx-lm's default is another
    }
    if attention is not None:
        result |= {
            "num_attention_heads": attention.q_heads,
            "num_key_value_heads": attention.kv_heads,
            "attention_bias": biases(architecture)["attention_bias"],
            "attention_multiplier": attention.scale,
            "position_embedding_type": "nope" if attention.rope is None else "rope",
            **write_rope(attention.rope),
        }
    if mlp is not None:
        result |= {
            "shared_intermediate_size": mlp.intermediate,
            "intermediate_size": mlp.intermediate,  # mlx-lm reads this one
            "residual_multiplier": mlp.residual_multiplier,
        }
    if moe is not None:
        result |= {
            "num_local_experts": moe.experts,
            "num_experts_per_tok": moe.top_k,
            "intermediate_size": moe.expert_width,
            "shared_intermediate_size": moe.shared_width,
            "residual_multiplier": moe.residual_multiplier,
        }
    return checked(result, architecture)


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> its names in files; the hub's are written."""
    return layer_names(architecture, TENSORS, TOP)


def extra_files(architecture: Architecture) -> dict[str, str]:
    """None: transformers knows the type."""
    return {}


def _second(fields: Mapping[str, Any], hidden: int, residual: float) -> Block:
    """The second block of each layer: experts, where there are any."""
    width = positive(fields, "shared_intermediate_size")
    if count := whole(fields, "num_local_experts"):
        block = Experts(
            hidden=hidden,
            experts=count,
            top_k=positive(fields, "num_experts_per_tok"),
            expert_width=positive(fields, "intermediate_size"),
            shared_width=width,
            router="chosen_softmax",
            gated=True,
            activation="silu",
            residual_multiplier=residual,
        )
        return possible(block)
    return FeedForward(
        hidden=hidden,
        intermediate=width,
        gated=True,
        packed=True,
        activation="silu",
        residual_multiplier=residual,
    )


def _layers(fields: Mapping[str, Any]) -> list[str]:
    """The kind of each layer's mixer. Raises: UserError where the list's two names contradict each
    other.
    """
    count = positive(fields, "num_hidden_layers")
    lists = [
        fields[name] for name in ("layer_types", "layers_block_type") if fields[name] is not None
    ]
    for said in lists:
        known = isinstance(said, list) and all(str(kind) in KINDS for kind in said)
        if not known or len(said) != count:
            raise error(
                "layer_types does not name each layer's kind.",
                got=said,
                allowed=f"{count} of {', '.join(KINDS)}",
            )
    kinds = [[KINDS[kind] for kind in said] for said in lists] or [["mamba"] * count]
    if kinds[0] != kinds[-1]:
        raise error(
            "layer_types and layers_block_type contradict each other.",
            got=f"{lists[0]} and {lists[1]}",
            allowed="one list",
        )
    return kinds[0]
