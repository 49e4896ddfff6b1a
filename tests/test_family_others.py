"""Models that no family reads: each of transformers' types is supported or told why not."""

import json
from functools import cache

import pytest
import torch
from family_models import FORMS, every_form
from helpers import run
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

from minipuzzle import families
from minipuzzle.errors import UserError
from minipuzzle.families import _others as others

OURS = "llama mistral mixtral qwen2 qwen3 qwen3_moe qwen3_next olmo2 nemotron_h mamba2 bamba"
OURS += " phi3 smollm3 granitemoehybrid"
WHY = {
    "bert": ["no causal decoder", "type_vocab_size: 2"],
    "roberta": ["no causal decoder"],
    "t5": ["an encoder beside", "is_encoder_decoder: true"],
    "bart": ["an encoder beside"],
    "gpt2": ["positions added", "layer_norm_epsilon", "activation_function: gelu_new"],
    "gpt_neo": ["positions added", "layer_norm_epsilon"],
    "gptj": ["side by side", "LayerNorm"],
    "gpt_neox": ["side by side", "use_parallel_residual: true", "hidden_act: gelu"],
    "opt": ["positions added", "activation_function: relu"],
    "bloom": ["ALiBi", "LayerNorm"],
    "mpt": ["ALiBi", "alibi: true"],
    "falcon": ["side by side", "parallel_attn: true"],
    "phi": ["side by side", "a bias in the head"],
    "stablelm": ["LayerNorm", "layer_norm_eps"],
    "starcoder2": ["LayerNorm", "norm_epsilon", "gelu_pytorch_tanh"],
    "gemma": ["hidden_act: gelu_pytorch_tanh"],
    "gemma2": ["softly capped scores", "attn_logit_softcapping: 50.0"],
    "gemma3_text": ["a norm before and after each mixer"],
    "cohere2": ["side by side"],
    "deepseek_v3": ["latent attention (MLA)", "kv_lora_rank: 512"],
    "kimi_linear": ["a decay for each key channel", "MLA"],
    "gpt_oss": ["attention sinks", "swiglu_limit: 7.0"],
    "glm4": ["neighbouring channels"],
    "mllama": ["cross-attention", "vision_config"],
    "mamba": ["Mamba-1", "time_step_rank"],
    "jamba": ["Mamba-1", "mamba_dt_rank"],
    "zamba2": ["share their weights", "num_mem_blocks: 1"],
    "falcon_h1": ["attention and Mamba-2 side by side"],
    "lfm2": ["short convolutions", "conv_L_cache: 3"],
}
"""Types that were none of ours, and what their configs have to be told."""


@cache
def default_of(name):
    """transformers' own config of a type, as its config.json."""
    return json.loads(AutoConfig.for_model(name).to_json_string(use_diff=False))


@pytest.mark.parametrize("name", [*OURS.split(), *WHY])
def test_a_config_is_supported_or_told_why_not(name):
    config = default_of(name)
    if name in families.known():
        assert families.of(config) is families.find(name)
        return
    with pytest.raises(UserError) as caught:
        families.of(config)
    for words in WHY[name]:
        assert words in caught.value.got
    assert caught.value.allowed == ", ".join(families.known())
    assert "is meant" not in caught.value.next


def test_they_are_43():
    assert len({*OURS.split(), *WHY}) == 43


@pytest.mark.parametrize(("name", "form"), every_form())
def test_nothing_is_said_of_a_model_that_we_support(name, form):
    config = json.loads(
        AutoConfig.for_model(name, **FORMS[name][form]).to_json_string(use_diff=False)
    )
    assert others.reasons(config) == []
    slip = config["model_type"].replace("_", "-") + "-"
    with pytest.raises(UserError, match="is meant"):
        families.of({**config, "model_type": slip})


SEEN = {
    others.LAYER_NORM: lambda kinds, names: any(
        kind.endswith("LayerNorm") and kind != "T5LayerNorm" for kind in kinds
    ),
    others.MLA: lambda kinds, names: any("kv_a_proj" in name for name in names),
    others.MAMBA_1: lambda kinds, names: any("x_proj" in name for name in names),
    others.CROSS: lambda kinds, names: any(
        part in name for name in names for part in ("cross_attn", "crossattention", "encoder_attn")
    ),
    others.ADDED: lambda kinds, names: any(
        part in name for name in names for part in ("wpe", "embed_positions", "positions_embed")
    ),
    "an encoder beside": lambda kinds, names: any("encoder" in name for name in names),
    "no text": lambda kinds, names: any(
        part in name for name in names for part in ("vision", "visual", "audio", "speech", "image")
    ),
    "attention sinks": lambda kinds, names: any("sinks" in name for name in names),
    "AltUp": lambda kinds, names: any("altup" in name for name in names),
}
"""Part of what we say -> whether transformers' model has it, by the classes of its modules and the
names of its tensors.
"""


@pytest.mark.parametrize("name", sorted(WHY))
def test_what_is_said_is_so(name):
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(name))
    kinds = {type(module).__name__ for module in model.modules()}
    names = {tensor for tensor, _ in model.named_parameters()}
    said = "; ".join(others.reasons(default_of(name)))
    for words, seen in SEEN.items():
        if words in said:
            assert seen(kinds, names), words


def test_every_type_by_name_alone_is_one_of_transformers():
    assert set(others.CLASSES) <= set(CONFIG_MAPPING)


def test_where_nothing_is_known_the_file_is_what_is_missing():
    config = default_of("exaone4") | {"model_type": "exaone5"}
    with pytest.raises(UserError, match="no file here says what its tensors are called"):
        families.of(config)
    with pytest.raises(UserError, match="Unknown model_type 'exaone5'"):
        families.of({"model_type": "exaone5"})


def test_of_a_model_of_images_the_text_is_looked_at():
    with pytest.raises(UserError, match=r"no text \(vision_config\)") as caught:
        families.of(default_of("llava"))
    assert "its text, a 'llama', as a checkpoint of its own" in caught.value.next


def test_the_kimi_that_is_published_has_its_fields_in_another_place():
    said = others.reasons({"linear_attn_config": {"kda_layers": [1, 2], "num_heads": 32}})
    assert said == [f"{others.KDA} (linear_attn_config: kda_layers)"]


def test_inspect_says_it(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(default_of("deepseek_v3")))
    run("inspect", tmp_path, code=2)
    said = capsys.readouterr().err
    assert "'deepseek_v3' are not supported" in said
    assert "kv_lora_rank: 512" in said
