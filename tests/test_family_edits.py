"""Configs of the families with one field changed: the logits of transformers, or a refusal."""

import json
import math
from dataclasses import replace
from functools import reduce
from operator import or_

import pytest
import torch
from family_bases import BASE, NAMES, NO_DEFAULT_HERE, type_of
from family_logits import difference
from family_models import in_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from minipuzzle import families
from minipuzzle.errors import UserError

TURNING = [name for name in NAMES if type_of(name) not in ("mamba2", "nemotron_h")]


EDITS = [
    *({"partial_rotary_factor": share} for share in (0.5, 1.0, 2.0)),
    *(
        {
            "rope_parameters": {
                "rope_type": kind,
                "rope_theta": 5e3,
                "factor": 2.0,
                "partial_rotary_factor": share,
            }
        }
        for kind in ("default", "linear", "dynamic", "yarn")
        for share in (0.5, 1.0)
    ),
    {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 777.0}}},
    {
        "rope_parameters": {
            "full_attention": {"rope_theta": 7.0},
            "sliding_attention": {"rope_theta": 9.0},
        },
        "rope_theta": 5.0,
    },
    {"rope_parameters": {"sliding_attention": {"rope_theta": 777.0}}},
    {
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_theta": 777.0,
        "rope_parameters": None,
    },
    {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}},
    {"rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 16}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 16},
    {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 4.0,
            "high_freq_factor": 1.0,
        }
    },
    {"rope_parameters": {"rope_type": "default", "rope_theta": None}},
    {"rope_theta": None},
    {"rope_theta": 777},
    {"is_causal": False},
    {"per_layer_config": {"1": {"rms_norm_eps": 0.1}}},
    {"rms_norm_eps": 0.1},
    {"layer_norm_epsilon": 0.1},
    {"mamba_rms_norm": False, "rms_norm": False, "norm_before_gate": True},
    {"hidden_act": "swish"},
    {"mamba_hidden_act": "swish"},
    {"mlp_hidden_act": "swish"},
    {"hidden_act": "relu"},
    {
        "rotary_pct": 0.5,
        "rotary_base": 777.0,
        "rope_interleaved": True,
        "alibi": True,
        "use_rope": False,
        "is_decoder": False,
        "hidden_activation": "gelu",
        "activation_function": "gelu",
        "layer_norm_eps": 0.1,
        "norm_eps": 0.1,
        "qk_norm": True,
        "use_qk_norm": True,
        "qk_layernorm": True,
        "parallel_residual": True,
        "pretraining_tp": 2,
        "attention_dropout": 0.5,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 3,
        "logit_scale": 2.0,
    },
    {
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.5,
        "logits_scaling": 3.0,
        "embedding_multiplier": 2.0,
    },
    {"attention_bias": True},
    {"mlp_bias": True},
    {"use_bias": True},
    {"mamba_proj_bias": True},
    {"mamba_conv_bias": False},
    {"use_conv_bias": False},
    {"attention_bias": "false"},
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": "false"},
    {"head_dim": 16},
    {"head_dim": None},
    {"attention_head_dim": 16},
    {"num_key_value_heads": 1},
    {"num_key_value_heads": None},
    {"sliding_window": 8},
    {"sliding_window": 8, "use_sliding_window": True},
    {"use_sliding_window": True},
    {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1},
    {"max_window_layers": 0},
    {
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    },
    {"layer_types": ["full_attention"] * 3},
    {"layer_types": ["attention", "mamba", "mamba"]},
    {"layer_types": ["x"] * 3},
    {"layers_block_type": ["attention", "attention", "mamba"]},
    {"attn_layer_indices": [0, 7]},
    {"attn_layer_indices": ["1"]},
    {"no_rope_layers": [0, 1, 0, 1]},
    {"no_rope_layers": []},
    {"no_rope_layer_interval": 2},
    {"no_rope_layers": [1, 1, 1]},
    {"time_step_min": 0.5},
    {"mamba_dt_min": 0.5},
    {"time_step_limit": [0.0, 1.0]},
    {"time_step_limit": None},
    {"num_nextn_predict_layers": 1},
    {"position_embedding_type": "absolute"},
    {"position_embedding_type": None},
    {"num_local_experts": None},
    {"num_local_experts": 4},
    {"num_experts": 0},
    {"num_experts": 6},
    {"n_routed_experts": 4},
    {"num_experts_per_tok": 1},
    {"num_experts_per_tok": 9},
    {"norm_topk_prob": True},
    {"norm_topk_prob": False},
    {"norm_topk_prob": None},
    {"decoder_sparse_step": 1},
    {"decoder_sparse_step": 2},
    {"decoder_sparse_step": 4},
    {"decoder_sparse_step": 0},
    {"mlp_only_layers": [0]},
    {"mlp_only_layers": [1, 7, -1]},
    {"mlp_only_layers": None},
    {"mlp_only_layers": 1},
    {"moe_intermediate_size": 16},
    {"intermediate_size": 16},
    {"shared_intermediate_size": 16},
    {"moe_shared_expert_intermediate_size": 16},
    {"n_shared_experts": 2},
    {"moe_latent_size": 8},
    {"routed_scaling_factor": 2.0},
    {"n_group": 4, "topk_group": 2},
    {"n_group": 8},
    {"topk_group": 2},
    {"clip_qkv": 0.1},
    {"clip_qkv": None},
    {"num_experts_per_tok": 8, "router_aux_loss_coef": 1.0, "scoring_func": "softmax"},
]


SHARED = ("head_dim", "layer_types", "num_local_experts")
"""Fields that transformers reads in every family, declared or not."""


def reading(name, edit):
    """What we read of an edited config; None where we refuse it."""
    try:
        return families.find(type_of(name)).architecture(json.loads(json.dumps(BASE[name] | edit)))
    except UserError:
        return None


def edits_at_once(name):
    """All EDITS, in groups of different fields: together those that transformers' class does not
    declare and that change nothing of what we read, each other one alone.
    """
    theirs, plain, groups = CONFIG_MAPPING[type_of(name)], reading(name, {}), []
    declared = {*dir(theirs), *theirs.__dataclass_fields__, *theirs.attribute_map, *SHARED}
    for edit in EDITS:
        if declared & edit.keys() or reading(name, edit) != plain:
            yield [edit]
            continue
        group = next((g for g in groups if not any(edit.keys() & e.keys() for e in g)), None)
        if group is None:
            groups.append(group := [])
        group.append(edit)
    yield from groups


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_transformers_or_the_config_is_refused(name):
    wrong, read = {}, 0
    for edits in edits_at_once(name):
        whole = difference(name, reduce(or_, edits, BASE[name]))
        if whole is not None and whole <= 1e-4:
            read += len(edits)
            continue
        for edit in edits:
            one = whole if len(edits) == 1 else difference(name, BASE[name] | edit)
            read += one is not None
            if one is not None and not one <= 1e-4:
                wrong[json.dumps(edit)] = one
        assert len(edits) == 1 or wrong, f"edits that are wrong together alone: {edits}"
    assert not wrong
    assert read > 30  # most are read, not refused
    absent = {field: {k: v for k, v in BASE[name].items() if k != field} for field in BASE[name]}
    absent = [fields for field, fields in absent.items() if field not in NO_DEFAULT_HERE]
    assert all((difference(name, fields) or 0) <= 1e-4 for fields in absent)


@pytest.mark.parametrize("name", TURNING)
def test_the_reported_cases_are_read_as_their_class_does(name):
    """A leftover share of a head that no class but bamba's reads, and then only in
    rope_parameters.
    """
    plain = {k: v for k, v in BASE[name].items() if k != "rope_parameters"}
    within = {"rope_type": "default", "partial_rotary_factor": 0.25}
    for edit in ({"partial_rotary_factor": 0.5}, {"rope_parameters": within}):
        assert difference(name, {**plain, **edit}) <= 1e-4
    nested = {**plain, "rope_parameters": {"full_attention": {"rope_theta": 7.0}}}
    if name == "olmo3":  # which has one for each kind of layer
        assert difference(name, nested) <= 1e-4
        return
    with pytest.raises(UserError, match="not one object for all layers"):
        families.find(type_of(name)).architecture(nested)


LEFTOVERS = {
    "layer_types": ["full_attention"] * 9,
    "layers_block_type": ["mamba"] * 9,
    "mlp_layer_types": ["dense"] * 9,
    "partial_rotary_factor": 0.5,
    "original_max_position_embeddings": 7,
    "no_rope_layers": [0] * 9,
    "max_window_layers": 1,
    "num_hidden_layers": 9,
    "attn_layer_indices": [8],
    "rope_theta": 3.0,
    "rope_scaling": {"rope_type": "linear", "factor": 9.0},
    "rope_parameters": {"rope_type": "linear", "factor": 9.0},
    "auto_map": {"AutoConfig": "x.Y"},
    "is_causal": False,
    "per_layer_config": {"8": {"rms_norm_eps": 0.1}},
    "use_sliding_window": True,
    "hidden_act": "gelu",
    "hybrid_override_pattern": "M" * 9,
    "time_step_limit": [0.0, 1.0],
    "num_nextn_predict_layers": 1,
    "tie_word_embeddings": True,
    "block_configs": [{}] * 9,
    "attention_head_dim": 4,
    "num_local_experts": 4,
    "mlp_only_layers": [8],
    "decoder_sparse_step": 2,
}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_parent_s_config_leaves_over_is_not_written_into_a_student_s(name):
    """transformers reads a student's config, whose blocks are fewer than its parent's, as the
    architecture is.
    """
    family = families.find(type_of(name))
    arch = family.architecture(BASE[name])
    keep = 2 if arch.rules.paired else 1
    student = replace(arch, blocks=arch.blocks[: len(arch.blocks) - keep])
    for architecture in (arch, student):
        written = json.loads(json.dumps(family.config(architecture, {**BASE[name], **LEFTOVERS})))
        assert family.architecture(written) == architecture
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                CONFIG_MAPPING[type_of(name)].from_dict(written)
            )
        state, names = model.state_dict(), family.names(architecture)
        for tensor in architecture.tensors():
            assert in_file(state, names[tensor.name], tensor).shape == tensor.shape
        assert sum(value.numel() for value in state.values()) == sum(
            math.prod(tensor.shape) for tensor in architecture.tensors()
        ) + architecture.tied_head * math.prod(model.lm_head.weight.shape)
        assert not {"auto_map", "is_causal", "per_layer_config"} & set(written)
        # of its own where mlx-lm reads it
        assert written.get("partial_rotary_factor") != LEFTOVERS["partial_rotary_factor"]
        fields = {k: v for k, v in written.items() if k not in ("model_type", "architectures")}
        assert difference(name, fields) <= 1e-4
