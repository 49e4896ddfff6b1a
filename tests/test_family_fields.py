"""Which fields of config.json a family obeys: those that its class of transformers reads, with that
class's defaults.
"""

import dataclasses
import json

import pytest
import torch
from family_bases import BASE, NAMES, NO_DEFAULT_HERE, type_of
from family_models import FORMS
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from minipuzzle import families
from minipuzzle.errors import UserError
from minipuzzle.families._nemotron_h_fields import OLD_FIELDS

NO_EFFECT = {  # on logits: how a model is made, trained, spread and answers
    "attention_dropout",
    "auto_map",
    "base_model_ep_plan",
    "base_model_fsdp_plan",
    "base_model_pp_plan",
    "base_model_tp_plan",
    "decoder",
    "dtype",
    "generator",
    "gradient_checkpointing",
    "initializer_range",
    "is_encoder_decoder",
    "linear_a_log_max",
    "linear_a_log_min",
    "linear_dt_init_floor",
    "linear_dt_max",
    "linear_dt_min",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "quantization_config",
    "rescale_prenorm_residual",
    "resid_pdrop",
    "residual_in_fp32",
    "return_dict",
    "router_jitter_noise",
    "router_aux_loss_coef",
    "sub_configs",
    "text_config",
    "time_step_floor",
    "time_step_max",
    "use_mamba_kernels",
    "vision_aspect_ratio",
    "vision_feature_layer",
    "vision_feature_select_strategy",
    "z_loss_coefficient",
}
REFUSED = {"is_causal", "is_heterogeneous"}  # for every family, the second as per_layer_config
DERIVED = {
    "mamba2": {"layer_types", "time_step_min", "time_step_rank"},
    "bamba": {"layer_types", "layers_block_type"},
    "nemotron_h": {"layer_types", "num_local_experts", "tie_word_embeddings"},
}


@pytest.mark.parametrize("name", FORMS)
def test_the_defaults_are_the_class_s(name):
    defaults = {field.name: field.default for field in dataclasses.fields(CONFIG_MAPPING[name])}
    defaults |= {"rope_theta": CONFIG_MAPPING[name].default_theta}
    for field, ours in families.find(name).FIELDS.items():
        if field in NO_DEFAULT_HERE:
            assert ours is None
        else:
            assert ours == defaults.get(field), field


@pytest.mark.parametrize("name", NAMES)
def test_every_field_that_the_class_reads_is_declared(name, monkeypatch):
    """What transformers looks up while it makes a model and runs it, less what has no effect on
    logits.
    """
    family = type_of(name)
    kind, read = CONFIG_MAPPING[family], set()
    config = kind(**json.loads(json.dumps(BASE[name])))
    original = kind.__getattribute__
    recorded = lambda self, key: read.add(key) or original(self, key)  # noqa: E731
    monkeypatch.setattr(kind, "__getattribute__", recorded)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model(torch.ones(1, 4, dtype=torch.long), use_cache=False)
    fields = {key for key in read if key[0] != "_" and not callable(getattr(kind, key, None))}
    elsewhere = NO_EFFECT | REFUSED | DERIVED.get(family, set())
    assert fields - elsewhere <= set(families.find(family).FIELDS)
    assert {"hidden_size", "num_hidden_layers"} <= fields


ODD = [0.37, 3, True, "x", [], {"a": 1}]


@pytest.mark.parametrize("name", NAMES)
def test_a_field_of_another_family_changes_nothing(name):
    family = families.find(type_of(name))
    every = {field for other in families.known() for field in families.find(other).FIELDS}
    plain = family.architecture(BASE[name])
    foreign = (
        every - set(family.FIELDS) - (set(OLD_FIELDS) if type_of(name) == "nemotron_h" else set())
    )
    assert len(foreign) > 15
    for value in ODD:
        assert family.architecture({**BASE[name], **dict.fromkeys(foreign, value)}) == plain


def test_a_slip_of_spelling_is_told_from_another_model():
    slips = {
        "Llama": "llama",
        "lama": "llama",
        "nemotron-h": "nemotron_h",
        "qwen-2": "qwen2",
        "misrtal": "mistral",
    }
    for slip, meant in slips.items():
        with pytest.raises(UserError, match=f"'{meant}' is meant"):
            families.find(slip)
    for other in set(CONFIG_MAPPING) - set(families.known()):
        with pytest.raises(UserError) as caught:
            families.find(other)
        assert "is meant" not in caught.value.next, other
        assert ("Mixtures of experts" in caught.value.next) == ("moe" in other)
        assert caught.value.allowed == ", ".join(families.known())


def test_fields_of_one_block_that_all_share_are_refused():
    fields = {**BASE["nemotron_h"], "model_type": "nemotron_h_puzzle"}
    letters = {"M": "mamba", "-": "mlp", "*": "attention"}
    kinds = [letters[letter] for letter in fields["hybrid_override_pattern"]]
    said = [{"block_type": kind, "layer_norm_epsilon": 0.1} for kind in kinds]
    with pytest.raises(UserError, match="layer_norm_epsilon of one block"):
        families.find("nemotron_h_puzzle").architecture({**fields, "block_configs": said})
    wide = {"head_dim": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    said = [{"block_type": kind, **(wide if kind == "attention" else {})} for kind in kinds]
    families.find("nemotron_h_puzzle").architecture({**fields, "block_configs": said})
    # transformers reads the same shapes as other heads
    with pytest.raises(UserError, match="block_configs is not read"):
        families.find("nemotron_h").architecture(
            {**fields, "model_type": "nemotron_h", "block_configs": said}
        )
