"""Configs of the families other than Nemotron-H: round trips, old and new fields, what is refused
and how.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from family_models import EXPERTS, FORMS, LAYERS, LLAMA3, SPECIAL, every_form, theirs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from minipuzzle import families
from minipuzzle.arch import Rules
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.families._rules import WHOLE_EXPANSION

OTHERS = [name for name in FORMS if not name.startswith("nemotron")]
FORMS_OF_OTHERS = [pair for pair in every_form() if pair[0] in OTHERS]


def saved(family, form):
    """The config.json that transformers writes."""
    return json.loads(
        AutoConfig.for_model(family, **FORMS[family][form]).to_json_string(use_diff=False)
    )


@pytest.mark.parametrize(("name", "form"), FORMS_OF_OTHERS)
def test_round_trip(name, form):
    family = families.find(name)
    arch = family.architecture(saved(name, form))
    for original in (
        {},
        saved(name, form),
        {"num_hidden_layers": 77, "hidden_size": 5, "my_field": 1, "auto_map": {}},
    ):
        written = json.loads(json.dumps(family.config(arch, original)))
        assert family.architecture(written) == arch
        assert written["model_type"] == name
        assert written.get("my_field") == original.get("my_field")
        assert "auto_map" not in written
        assert family.config(arch, written) == written
    names = family.names(arch)
    assert list(names) == [t.name for t in arch.tensors()]
    accepted = [n for choices in names.values() for n in choices]
    assert len(accepted) == len(set(accepted))


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["llama", "mistral", "olmo2", "qwen2", "qwen3", "smollm3"]),
    layers=st.integers(1, 5),
    kv=st.integers(1, 3),
    queries=st.integers(1, 3),
    half=st.integers(1, 4),
    width=st.integers(1, 99),
    tied=st.booleans(),
)
def test_sizes_are_transformers(name, layers, kv, queries, half, width, tied):
    form = next(iter(FORMS[name].values()))
    fields = {
        **form,
        "num_hidden_layers": layers,
        "num_attention_heads": kv * queries,
        "num_key_value_heads": kv,
        "hidden_size": 4 * half * kv * queries,
        "intermediate_size": width,
        "tie_word_embeddings": tied,
    }
    fields |= {"head_dim": 4 * half} if "head_dim" in form else {}
    family = families.find(name)
    arch = family.architecture(fields)
    written = family.config(arch, SPECIAL)
    assert family.architecture(written) == arch
    assert theirs(name, written) == ours(family, arch)


def theirs(name, fields):
    with torch.device("meta"):
        fields = {k: v for k, v in fields.items() if k != "model_type"}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields))
    return {n: tuple(p.shape) for n, p in model.named_parameters()}


def ours(family, arch):
    shapes = {t.name: t.shape for t in arch.tensors()}
    return {accepted[0]: shapes[name] for name, accepted in family.names(arch).items()}


def kinds_of(name):
    """The kinds of blocks that a family's forms have."""
    family = families.find(name)
    return {b.kind for form in FORMS[name] for b in family.architecture(saved(name, form)).blocks}


def test_the_table_of_the_page_is_what_the_rules_say():
    page = (Path(__file__).parents[1] / "docs" / "families.md").read_text()
    rows = {
        cells[1].strip(" `"): [c.strip() for c in cells[4:9]]
        for line in page.splitlines()
        if line.startswith("| `") and (cells := line.split("|"))
    }
    assert sorted(rows) == families.known()
    for name in OTHERS:
        arch = families.find(name).architecture(saved(name, next(iter(FORMS[name]))))
        kinds, rules = kinds_of(name), arch.rules
        assert rows[name] == [
            "whole layers" if rules.paired else "any block",
            "one for all" if "mlp" in kinds else "",
            ("stay" if "kv_heads" in rules.fixed else "one number for all")
            if "attention" in kinds
            else "",
            "whole expansions" if "mamba" in kinds else "",
            "one size for all" if name in families.WITH_EXPERTS else "",
        ]
        assert (WHOLE_EXPANSION in rules.multiples) == ("mamba" in kinds)
        assert not rules.per_block_sizes


OLD_LLAMA3 = {
    "rope_theta": 5e4,
    "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        (
            {"rope_theta": 5e5, "rope_scaling": None},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        ),
        (OLD_LLAMA3, {"rope_parameters": LLAMA3}),
        ({"num_key_value_heads": None}, {"num_key_value_heads": 4}),
        ({"head_dim": None}, {"head_dim": 8}),
    ],
)
def test_old_fields_mean_what_new_ones_do(old, new):
    llama = families.find("llama")
    assert llama.architecture({**LAYERS, **old}) == llama.architecture({**LAYERS, **new})


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        (
            "llama",
            {"rope_scaling": {"rope_type": "longrope", "factor": 2}},
            ["rope_type", "longrope", "llama3, yarn"],
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 2}},
            ["low_freq_factor", "None"],
        ),
        ("llama", {"rope_scaling": "linear"}, ["rope_scaling", "object"]),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, ["factor", "above 0"]),
        ("llama", {"num_attention_heads": 5, "head_dim": 8}, ["hidden_size", "32 and 5"]),
        ("llama", {"num_key_value_heads": 3}, ["num_key_value_heads", "4 and 3"]),
        ("llama", {"hidden_act": "gelu"}, ["hidden_act", "gelu", "silu"]),
        ("llama", {"rms_norm_eps": -1}, ["rms_norm_eps"]),
        ("llama", {"num_hidden_layers": 0}, ["num_hidden_layers"]),
        ("llama", {"head_dim": 3}, ["head_dim", "multiple"]),
        ("mistral", {"sliding_window": 0}, ["sliding_window", "0"]),
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, ["window of no size"]),
        ("olmo3", {"layer_types": ["sliding_attention"] * 2}, ["layer_types", "3 of"]),
        ("olmo3", {"rope_parameters": {"sliding_attention": 9.0}}, ["each kind of layer"]),
        ("smollm3", {"no_rope_layers": [1]}, ["no_rope_layers"]),
        (
            "mamba2",
            {"num_heads": 7, "head_dim": 8, "n_groups": 1},
            ["num_heads x head_dim", "7 x 8", "2 x 32"],
        ),
        ("mamba2", {"num_heads": 8, "head_dim": 8, "n_groups": 3}, ["num_heads", "n_groups"]),
        (
            "mamba2",
            {"num_heads": 8, "head_dim": 8, "time_step_limit": [0.001, 0.1]},
            ["time_step_limit"],
        ),
        ("mamba2", {"num_heads": 8, "head_dim": 8, "hidden_act": "gelu"}, ["hidden_act"]),
        ("bamba", {"mamba_n_heads": 8, "mamba_d_head": 4}, ["mamba_d_head", "4", "8"]),
        ("bamba", {"mamba_n_heads": 7}, ["mamba_n_heads", "64 and 7"]),
        (
            "granitemoehybrid",
            {"mamba_n_heads": 8, "num_local_experts": 4, "num_experts_per_tok": 5},
            ["moe block", "5 chosen experts", "at most 4"],
        ),
        ("granitemoehybrid", {"mamba_n_heads": 8}, ["num_experts_per_tok is missing"]),
        (
            "granitemoehybrid",
            {"mamba_n_heads": 8, "num_local_experts": None},
            ["num_local_experts"],
        ),
        (
            "qwen3_moe",
            {**EXPERTS, "moe_intermediate_size": 8, "num_experts_per_tok": 9},
            ["9 chosen"],
        ),
        ("qwen3_moe", {**EXPERTS, "num_local_experts": 4}, ["contradict", "8 and 4"]),
        ("qwen3_moe", {**EXPERTS}, ["moe_intermediate_size"]),
        ("qwen3_moe", {"num_experts_per_tok": 2}, ["num_experts is missing"]),
        ("qwen3_moe", {**EXPERTS, "mlp_only_layers": ["1"]}, ["mlp_only_layers", "['1']"]),
        ("olmoe", {**EXPERTS, "sliding_window": 16}, ["sliding_window", "16 tokens", "128"]),
        ("olmoe", {**EXPERTS, "num_experts": 2}, ["3 chosen", "at most 2"]),
        ("mixtral", {**EXPERTS, "num_experts": 2}, ["3 chosen", "at most 2"]),
        (
            "phi3",
            {"rope_scaling": {"rope_type": "linear", "factor": 2}},
            ["rope_type", "linear", "default"],
        ),
        ("mixtral", {"num_experts_per_tok": 9}, ["9 chosen", "at most 8"]),
        ("olmoe", {**EXPERTS, "num_experts": 0}, ["no expert"]),
        ("olmoe", {**EXPERTS, "clip_qkv": 8.0}, ["clip_qkv", "8.0"]),
        ("olmoe", {**EXPERTS, "head_dim": 16}, ["4 x 16", "32"]),
        (
            "granitemoehybrid",
            {"num_local_experts": 0, "mamba_n_heads": 8, "layer_types": ["moe"] * 3},
            ["layer_types"],
        ),
        (
            "granitemoehybrid",
            {"num_local_experts": 0, "mamba_n_heads": 8, "logits_scaling": 0},
            ["logits_scaling"],
        ),
    ],
)
def test_refused_configs(name, fields, says):
    with pytest.raises(UserError) as caught:
        families.find(name).architecture({**LAYERS, **fields})
    assert caught.value.allowed
    assert caught.value.next
    for words in says:
        assert words in str(caught.value)


@pytest.mark.parametrize("name", OTHERS)
def test_what_no_config_can_say_is_not_written(name):
    family = families.find(name)
    arch = family.architecture(saved(name, next(iter(FORMS[name]))))
    last = arch.blocks[-1]
    sizes = {"mamba": {"state": 3}, "mlp": {"intermediate": 8}, "moe": {"expert_width": 8}}
    odd = replace(last, **sizes[last.kind])
    wrong = [replace(arch, blocks=(*arch.blocks[:-1], odd)), replace(arch, rules=Rules())]
    if not name.startswith("granite"):
        wrong.append(replace(arch, embedding_multiplier=3.0))
    if arch.rules.paired:
        wrong += [replace(arch, blocks=arch.blocks[1:]), replace(arch, blocks=arch.blocks[:-1])]
    for other in wrong:
        with pytest.raises(UserError, match=f"{name} config can't say this"):
            family.config(other, {})


def test_old_buffers_are_not_read(tmp_path):
    theirs = theirs_of("llama", LAYERS)
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(3)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    opened = Checkpoint.open(tmp_path)
    assert opened.notes == ("3 tensors of RoPE's speeds are not read",)
    assert opened.parameters == opened.architecture.parameters
