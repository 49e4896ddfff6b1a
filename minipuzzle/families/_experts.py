"""What families share whose feed-forward is SwiGLU experts that a softmax chooses: Qwen 3 MoE,
OLMoE.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle.families._fields import activation, error, flag, positive, possible, whole
from minipuzzle.families._parts import EXPERT, Pattern
from minipuzzle.kinds import Experts

EXPERT_FIELDS: dict[str, Any] = {
    "num_experts": None,
    "num_local_experts": None,
    "num_experts_per_tok": None,
    "norm_topk_prob": False,
}
"""``num_local_experts`` is transformers' other name of ``num_experts``."""
EXPERT_TENSORS: dict[str, str | tuple[Pattern, ...]] = {
    "norm.weight": "post_attention_layernorm.weight",
    "router.weight": "mlp.gate.weight",
    # a matrix an expert, as on the hub; a stack of them, as in transformers' memory
    "experts.gate_up_proj": (
        tuple(f"mlp.experts.{EXPERT}.{p}_proj.weight" for p in ("gate", "up")),
        "mlp.experts.gate_up_proj",
    ),
    "experts.down_proj": (f"mlp.experts.{EXPERT}.down_proj.weight", "mlp.experts.down_proj"),
}


def expert_count(fields: Mapping[str, Any]) -> int:
    """By either of its names, from 0. Raises: UserError where they contradict each other."""
    both = [fields[name] for name in ("num_experts", "num_local_experts")]
    if None not in both and both[0] != both[1]:
        raise error(
            "num_experts and num_local_experts contradict each other.",
            got=f"{both[0]} and {both[1]}",
            allowed="one value",
        )
    return whole(fields, "num_experts" if both[1] is None else "num_local_experts")


def read_experts(fields: Mapping[str, Any], hidden: int, width: str) -> Experts:
    """The block of ``EXPERT_FIELDS``, ``width`` the field of an expert's width."""
    activation(fields, "hidden_act", "silu")
    if not (count := expert_count(fields)):
        raise error("There is no expert.", got="num_experts 0", allowed="a whole number above 0")
    block = Experts(
        hidden=hidden,
        experts=count,
        top_k=positive(fields, "num_experts_per_tok"),
        expert_width=positive(fields, width),
        router="softmax",
        normalised=flag(fields, "norm_topk_prob"),
        gated=True,
        activation="silu",
    )
    return possible(block)


def write_experts(block: Experts | None, width: str) -> dict[str, Any]:
    """The fields that ``read_experts`` reads."""
    if block is None:
        return {}
    return {
        "num_experts": block.experts,
        "num_experts_per_tok": block.top_k,
        width: block.expert_width,
        "norm_topk_prob": block.normalised,
    }
