"""Configs of Nemotron-H that are refused, and architectures that no config can say."""

from dataclasses import replace

import pytest
from nemotron_h_configs import BASE, LISTED

from minipuzzle import families
from minipuzzle.errors import UserError
from minipuzzle.families import nemotron_h
from minipuzzle.kinds import Attention, FeedForward, Rope


def per_block(index, **own):
    said = [{"block_type": k, **(own if i == index else {})} for i, k in enumerate(LISTED)]
    return {"model_type": "nemotron_h_puzzle", "block_configs": said}


def experts(**fields):
    """A pattern with one block of 8 experts, and its fields."""
    return {
        "hybrid_override_pattern": "M-EM",
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "moe_shared_expert_intermediate_size": 8,
        **fields,
    }


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hybrid_override_pattern": "M-XM"}, ["'X'", "position 2"]),
        ({"hybrid_override_pattern": "MEM-"}, ["n_routed_experts", "missing"]),
        (
            {"hybrid_override_pattern": None, "layers_block_type": ["mamba", "expert"]},
            ["'expert'", "position 1", "attention, mamba, mlp, moe"],
        ),
        (experts(num_experts_per_tok=9), ["moe block", "9 chosen experts", "at most 8"]),
        (experts(n_group=3), ["moe block", "8 experts in 3 groups", "equal size"]),
        (experts(n_group=8), ["at least 2 experts in each group"]),
        (experts(n_group=2, topk_group=3), ["no more chosen groups"]),
        (experts(n_group=4, num_experts_per_tok=3), ["at most 2, the experts of the chosen"]),
        (experts(norm_topk_prob="yes"), ["norm_topk_prob", "true, false"]),
        (experts(routed_scaling_factor=0), ["routed_scaling_factor"]),
        (experts(num_local_experts=4), ["num_local_experts and n_routed_experts contradict"]),
        ({"num_hidden_layers": 5}, ["4 letters", "5 (num_hidden_layers"]),
        ({"hybrid_override_pattern": ""}, ["0 letters"]),
        ({"hybrid_override_pattern": None}, ["which blocks"]),
        ({"hybrid_override_pattern": 7}, ["not text"]),
        ({"layers_block_type": "mamba"}, ["not a list"]),
        ({"layers_block_type": [*LISTED[:2], "mlp", "mamba"]}, ["contradict", "position 2"]),
        ({"layers_block_type": LISTED[:3]}, ["layers_block_type", "3 entries"]),
        ({"mamba_n_groups": 4}, ["mamba_n_groups", "contradict"]),
        ({"block_configs": [{"block_type": "mamba"}]}, ["block_configs", "1 entries"]),
        ({"block_configs": "x"}, ["block_configs"]),
        ({"block_configs": [{}] * 4}, ["Unknown kind None"]),
        (per_block(1, intermediate_size=0), ["intermediate_size"]),
        (per_block(2, sliding_window=64), ["sliding_window", "64"]),
        (per_block(0, mamba_num_heads=7), ["mamba_num_heads", "7 and 2"]),
        ({"mamba_num_heads": 7}, ["mamba_num_heads", "n_groups"]),
        ({"num_attention_heads": 3}, ["num_key_value_heads", "3 and 2"]),
        ({"mlp_hidden_act": "silu"}, ["mlp_hidden_act", "relu2"]),
        ({"mamba_hidden_act": "gelu"}, ["mamba_hidden_act", "silu"]),
        ({"sliding_window": 128}, ["sliding_window"]),
        ({"time_step_limit": [0.001, 0.1]}, ["time_step_limit", "Infinity"]),
        ({"time_step_limit": 3}, ["time_step_limit"]),
        ({"layer_norm_epsilon": "x"}, ["layer_norm_epsilon"]),
        ({"max_position_embeddings": "8k"}, ["max_position_embeddings"]),
    ]
    + [
        ({name: None}, [name, "missing"])
        for name in (
            "hidden_size",
            "vocab_size",
            "intermediate_size",
            "num_attention_heads",
            "mamba_num_heads",
        )
    ],
)
def test_refused_configs(fields, says):
    with pytest.raises(UserError) as caught:
        nemotron_h.architecture({**BASE, **fields})
    for words in says:
        assert words in str(caught.value)


BIASED = Attention(hidden=16, q_heads=2, kv_heads=1, attn_head_dim=4, bias=True)
TURNED = Attention(hidden=16, q_heads=2, kv_heads=1, attn_head_dim=4, rope=Rope(dim=4))
GATED = FeedForward(hidden=16, intermediate=8, gated=True)


@pytest.mark.parametrize(
    "change",
    [{"tied_head": True}, {"blocks": (BIASED,)}, {"blocks": (TURNED,)}, {"blocks": (GATED,)}],
)
def test_what_no_config_can_say_is_not_written(change):
    with pytest.raises(UserError, match="no tied head and no bias"):
        nemotron_h.config(replace(nemotron_h.architecture(BASE), **change), {})


@pytest.mark.parametrize(
    ("name", "near"),
    [("nemotron-h", "nemotron_h"), ("nemotronh_puzzle", "nemotron_h_puzzle"), ("", "model_type")],
)
def test_unknown_model_type_names_the_known_and_the_nearest(name, near):
    with pytest.raises(UserError) as caught:
        families.find(name)
    assert near in caught.value.next
    assert all(known in caught.value.allowed for known in families.known())
