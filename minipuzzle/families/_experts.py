"""What families share whose feed-forward is SwiGLU experts that a softmax chooses: Qwen 3 MoE and
Next, OLMoE.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import activation, error, flag, positive, possible, whole
from minipuzzle.families._layers import feed_forward
from minipuzzle.families._parts import EXPERT, Pattern
from minipuzzle.kinds import Block, Experts

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
SHARED_TENSORS: dict[str, str | tuple[Pattern, ...]] = {
    "shared_gate_up_proj.weight": (
        tuple(f"mlp.shared_expert.{p}_proj.weight" for p in ("gate", "up")),
    ),
    "shared_down_proj.weight": "mlp.shared_expert.down_proj.weight",
    "shared_gate.weight": "mlp.shared_expert_gate.weight",
}
DENSE_FIELDS: dict[str, Any] = {"decoder_sparse_step": 1, "mlp_only_layers": None}
"""Which layers have a dense SwiGLU in place of experts."""


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


def read_experts(fields: Mapping[str, Any], hidden: int, width: str, **options: Any) -> Experts:
    """The block of ``EXPERT_FIELDS``, ``width`` the field of an expert's width; ``options`` are the
    family's own.
    """
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
        **options,
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


def second_blocks(fields: Mapping[str, Any], width: str, **options: Any) -> list[Block]:
    """The second block of each layer, as ``read_experts`` has it; dense where ``mlp_only_layers``
    has the layer, where its number is no multiple of ``decoder_sparse_step``, or where there are no
    experts at all.
    """
    hidden, layers = positive(fields, "hidden_size"), positive(fields, "num_hidden_layers")
    step, said = positive(fields, "decoder_sparse_step"), fields["mlp_only_layers"] or []
    if not isinstance(said, list) or not all(type(index) is int for index in said):
        raise error(
            "mlp_only_layers is not a list of whole numbers.",
            got=said,
            allowed="the positions of dense layers",
        )
    sparse = [i not in said and (i + 1) % step == 0 for i in range(layers)]
    if any(sparse) and expert_count(fields) == 0:
        sparse = [False] * layers
    moe = read_experts(fields, hidden, width, **options) if any(sparse) else None
    mlp = None if all(sparse) else feed_forward(fields, hidden)
    blocks = (moe if routed else mlp for routed in sparse)
    return [block for block in blocks if block is not None]


def write_dense(architecture: Architecture) -> dict[str, Any]:
    """The fields of dense layers: they are listed."""
    dense = [i // 2 for i in architecture.indices("mlp")]
    return {"decoder_sparse_step": 1, "mlp_only_layers": dense}
