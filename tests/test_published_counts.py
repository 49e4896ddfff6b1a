"""Configs without weights have the parameters that were published, to the last one."""

from pathlib import Path

import pytest

from minipuzzle import families
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import read_config

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
PUBLISHED = {  # the parameters that the checkpoints on the hub have
    "Llama 3 8B": ("llama", 8_030_261_248, (128256, 4096, 14336, 32, 32, 8, False)),
    "Mistral 7B v0.2": ("mistral", 7_241_732_096, (32000, 4096, 14336, 32, 32, 8, False)),
    "Qwen 2.5 0.5B": ("qwen2", 494_032_768, (151936, 896, 4864, 24, 14, 2, True)),
    "Qwen 3 0.6B": ("qwen3", 596_049_920, (151936, 1024, 3072, 28, 16, 8, True)),
    "OLMo 2 7B": ("olmo2", 7_298_617_344, (100352, 4096, 11008, 32, 32, 32, False)),
    "Granite 3.1 8B": ("granite", 8_170_848_256, (49155, 4096, 12800, 40, 32, 8, True)),
    "OLMo Hybrid 7B": ("olmo_hybrid", 7_430_870_688, (100352, 3840, 11008, 32, 30, None, False)),
    "Phi 4 14B": ("phi3", 14_659_507_200, (100352, 5120, 17920, 40, 40, 10, False)),
    "SmolLM 3 3B": ("smollm3", 3_075_098_624, (128256, 2048, 11008, 36, 16, 4, True)),
}
NAMES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
)


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_parameters(model):
    name, parameters, sizes = PUBLISHED[model]
    fields = {**dict(zip(NAMES, sizes, strict=True)), "sliding_window": None}
    assert families.find(name).architecture(fields).parameters == parameters


def test_published_parameters_of_lfm2():
    """LFM2 1.2B by the fields of its own file: of 12,288 channels two thirds are there."""
    fields = {
        "vocab_size": 65536,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "block_ff_dim": 12288,
        "tie_embedding": True,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    }
    lfm2 = families.find("lfm2")
    architecture = lfm2.architecture(fields)
    assert architecture.parameters == 1_170_340_608
    assert architecture.pattern == "C-C-*-C-C-*-C-C-*-C-*-C-*-C-*-C-"
    written = lfm2.config(architecture, fields)
    assert lfm2.architecture(written) == architecture
    assert "full_attn_idxs" not in written


def test_published_parameters_of_examples():
    codestral = {"vocab_size": 32768, "hidden_size": 4096, "num_hidden_layers": 64}
    assert families.find("mamba2").architecture(codestral).parameters == 7_285_403_648
    example = Path(__file__).parents[1] / "docs" / "examples" / "llama-3.2-1b"
    assert read_config(example)[1].parameters == 1_235_814_400


SMALL_AND_TINY = {
    "vocab_size": 100352,
    "num_hidden_layers": 40,
    "layer_types": (["mamba"] * 5 + ["attention"] + ["mamba"] * 4) * 4,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_n_groups": 1,
    "tie_word_embeddings": True,
}
WITH_EXPERTS = {  # (total, active); Nemotron 3 is in test_published_moe.py
    "Qwen3-30B-A3B": (
        (30_532_122_624, 3_353_032_704),
        "qwen3_moe",
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
        },
    ),
    "Mixtral 8x7B": (
        (46_702_792_704, 12_879_925_248),
        "mixtral",
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_experts_per_tok": 2,
        },
    ),
    "Qwen3-Next-80B-A3B": (
        (79_674_391_296, 3_874_929_408),
        "qwen3_next",
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "intermediate_size": 5120,
            "moe_intermediate_size": 512,
            "num_experts": 512,
            "num_experts_per_tok": 10,
        },
    ),
    "OLMoE-1B-7B": (
        (6_919_161_856, 1_282_017_280),
        "olmoe",
        {
            "vocab_size": 50304,
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
        },
    ),
    "Granite-4.0-H-Small": (
        (32_207_337_984, 8_803_121_664),
        "granitemoehybrid",
        {
            **SMALL_AND_TINY,
            "hidden_size": 4096,
            "intermediate_size": 768,
            "shared_intermediate_size": 1536,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 72,
            "num_experts_per_tok": 10,
            "mamba_n_heads": 128,
        },
    ),
    "Granite-4.0-H-Tiny": (
        (6_939_037_248, 1_465_470_528),
        "granitemoehybrid",
        {
            **SMALL_AND_TINY,
            "hidden_size": 1536,
            "intermediate_size": 512,
            "shared_intermediate_size": 1024,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "num_local_experts": 64,
            "num_experts_per_tok": 6,
            "mamba_n_heads": 48,
        },
    ),
}


@pytest.mark.parametrize("model", WITH_EXPERTS)
def test_total_and_active(model):
    counts, name, fields = WITH_EXPERTS[model]
    architecture = families.find(name).architecture(fields)
    assert (architecture.parameters, architecture.active_parameters) == counts
    written = families.find(name).config(architecture, {})
    assert families.find(name).architecture(written) == architecture


QWEN3_5 = {  # (total, active); layers, hidden, width or experts, heads, value heads of 16, tied
    "0.8B": ((752_393_024, 752_393_024), (24, 1024, 3584, 8, 2, 16, True)),
    "2B": ((1_881_825_088, 1_881_825_088), (24, 2048, 6144, 8, 2, 16, True)),
    "4B": ((4_205_751_296, 4_205_751_296), (32, 2560, 9216, 16, 4, 32, True)),
    "9B": ((8_953_803_264, 8_953_803_264), (32, 4096, 12288, 16, 4, 32, False)),
    "27B": ((26_895_998_464, 26_895_998_464), (64, 5120, 17408, 24, 4, 48, False)),
    "35B-A3B": ((34_660_610_688, 3_454_988_928), (40, 2048, (256, 8, 512), 16, 2, 32, False)),
    "122B-A10B": ((122_111_526_912, 9_771_288_576), (48, 3072, (256, 8, 1024), 32, 2, 64, False)),
    "397B-A17B": ((396_346_350_336, 17_349_040_896), (60, 4096, (512, 10, 1024), 32, 2, 64, False)),
}


@pytest.mark.parametrize("model", QWEN3_5)
def test_total_and_active_of_qwen3_5(model):
    """The text alone; what sees and what drafts is not counted."""
    counts, (layers, hidden, inner, q, kv, values, tied) = QWEN3_5[model]
    sizes = (248_320, hidden, inner, layers, q, kv, tied)
    fields = {**dict(zip(NAMES, sizes, strict=True)), "linear_num_value_heads": values}
    name = "qwen3_5"
    if isinstance(inner, tuple):
        name, (experts, chosen, width) = "qwen3_5_moe", inner
        fields |= {"num_experts": experts, "num_experts_per_tok": chosen}
        fields |= dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), width)
        del fields["intermediate_size"]
    family, config = families.find(name), {"text_config": fields | {"mtp_num_hidden_layers": 1}}
    architecture = family.architecture(config)
    assert (architecture.parameters, architecture.active_parameters) == counts
    assert family.architecture(family.config(architecture, config)) == architecture
    if model == "27B":  # of its text, as public tests of converters count them
        names = family.names(architecture)
        tensors = (names[t.name][0] for t in architecture.tensors())
        assert sum(len(families.names_of(found)) for found in tensors) == 851


def test_multi_token_prediction_of_the_super_is_counted_apart():
    """By the formulas of its blocks; the published total is without it."""
    hidden, latent, experts, width, shared = 4096, 1024, 512, 2688, 5376
    attention = hidden + 2 * 32 * 128 * hidden + 2 * 2 * 128 * hidden
    routed = experts * 2 * latent * width + experts * hidden
    moe = routed + 2 * hidden * shared + hidden + 2 * hidden * latent
    joins = 2 * hidden * hidden + 3 * hidden
    architecture = read_config(EXAMPLES / "nemotron-3-super-120b-a12b")[1]
    assert architecture.mtp_parameters == attention + moe + joins


PRUNED = {  # ModelOpt's candidates of the Nano; the first is the one that it chose
    (("hidden", 2304), ("experts", 104), ("shared_width", 3072)): 22_276_865_600,
    (("hidden", 2560), ("heads", 48), ("experts", 96), ("expert_width", 1536)): 19_278_827_248,
    (
        ("heads", 56),
        ("head_dim", 48),
        ("experts", 96),
        ("expert_width", 1536),
        ("shared_width", 3072),
    ): 20_092_821_656,
}


@pytest.mark.parametrize(("sizes", "parameters"), PRUNED.items())
def test_published_cuts_of_the_nano(sizes, parameters):
    """A selection of these sizes has the published parameters, and its config says them again."""
    config, parent = read_config(EXAMPLES / "nemotron-3-nano-30b-a3b")
    said = dict(sizes)
    hidden = said.pop("hidden", None)
    kept = [_first(block, said) for block in parent.blocks]
    student = Selection(
        blocks=tuple(kept), hidden=None if hidden is None else tuple(range(hidden))
    ).student(parent)
    assert student.parameters == parameters
    if hidden == 2304:
        assert student.active_parameters == 2_999_647_808
    family = families.find(config["model_type"])
    assert family.architecture(family.config(student, config)) == student


def _first(block, sizes):
    """The first indices of each axis that a block has; of heads those of each group."""
    kept, of = {}, block.sizes
    for axis, size in sizes.items():
        if axis == "heads" and "heads" in of:
            each, share = of["heads"] // of["groups"], size // of["groups"]
            kept["heads"] = tuple(g * each + i for g in range(of["groups"]) for i in range(share))
        elif axis == "expert_width" and axis in of:
            rows = range(sizes.get("experts", of["experts"]))
            kept["experts*expert_width"] = tuple(
                e * of[axis] + i for e in rows for i in range(size)
            )
        elif axis in of:
            kept[axis] = tuple(range(size))
    return kept
