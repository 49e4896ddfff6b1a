"""A block of Nemotron-H from config.json's fields, and the fields that say a block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minipuzzle.families._fields import divides, flag, number, positive, possible
from minipuzzle.families._nemotron_h_fields import supported
from minipuzzle.kinds import Attention, Block, Experts, FeedForward, Mamba2

AXIS_FIELDS = {
    "mamba": {"heads": "mamba_num_heads", "head_dim": "mamba_head_dim"},
    "attention": {"q_heads": "num_attention_heads", "kv_heads": "num_key_value_heads"},
    "mlp": {"intermediate": "intermediate_size"},
    "moe": {
        "experts": "n_routed_experts",
        "top_k": "num_experts_per_tok",
        "expert_width": "moe_intermediate_size",
        "shared_width": "moe_shared_expert_intermediate_size",
        "latent": "moe_latent_size",
    },
}


def block(kind: str, fields: dict[str, Any], hidden: int) -> Block:
    """A block of a kind as config.json names it. Raises: UserError for impossible sizes, and for an
    option that this model does not have.
    """
    supported(fields)
    if kind == "mlp":
        return FeedForward(
            hidden=hidden,
            intermediate=positive(fields, "intermediate_size"),
            bias=flag(fields, "mlp_bias"),
        )
    if kind == "moe":
        return _experts(fields, hidden)
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


def _experts(fields: dict[str, Any], hidden: int) -> Experts:
    latent = fields["moe_latent_size"]
    block = Experts(
        hidden=hidden,
        experts=positive(fields, "n_routed_experts"),
        top_k=positive(fields, "num_experts_per_tok"),
        expert_width=positive(fields, "moe_intermediate_size"),
        shared_width=positive(fields, "moe_shared_expert_intermediate_size"),
        latent=0 if latent is None else positive(fields, "moe_latent_size"),
        router_groups=positive(fields, "n_group"),
        router_groups_kept=positive(fields, "topk_group"),
        normalised=flag(fields, "norm_topk_prob"),
        scaling=number(fields, "routed_scaling_factor"),
        bias=flag(fields, "mlp_bias"),
    )
    return possible(block)


def plain(block: Block) -> Block:
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
    if isinstance(block, Experts):
        return replace(
            block,
            residual_multiplier=1.0,
            norm_after=False,
            router="sigmoid",
            gated=False,
            activation="relu2",
            shared_gate=False,
        )
    return replace(block, residual_multiplier=1.0)


def sizes(block: Block) -> dict[str, Any]:
    """The fields that say a block."""
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
    if isinstance(block, Experts):
        return {
            "n_routed_experts": block.experts,
            "num_experts_per_tok": block.top_k,
            "moe_intermediate_size": block.expert_width,
            "moe_shared_expert_intermediate_size": block.shared_width,
            "moe_latent_size": block.latent or None,
            "routed_scaling_factor": block.scaling,
            "n_group": block.router_groups,
            "topk_group": block.router_groups_kept,
            "norm_topk_prob": block.normalised,
            "mlp_bias": block.bias,
            "mlp_hidden_act": "relu2",
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


def block_config(block: Block, top: dict[str, Any]) -> dict[str, Any]:
    """A block's entry in ``block_configs``: its sizes, and what differs from ``top``."""
    fields = AXIS_FIELDS[block.kind]
    own = {field: block.sizes.get(axis) for axis, field in fields.items()}
    differs = {field: value for field, value in sizes(block).items() if top[field] != value}
    return {"block_type": block.kind, **own, **differs}
