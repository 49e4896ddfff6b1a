"""Cut hybrids of gated DeltaNet in llama.cpp, in transformers and here: the same words."""

import shutil
from dataclasses import replace

import pytest
import torch
from conftest import VOCAB
from family_models import FORMS, theirs_of
from llama_cpp_server import LlamaCpp, largest_difference
from test_qwen3_5 import CLASSES, saved
from transformers import AutoModelForCausalLM

from minipuzzle import embedded, families
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.export.gguf import export_gguf, layout_of
from minipuzzle.generation import generate
from minipuzzle.model import load_model
from minipuzzle.surgery import cut

STEPS = 40
LINEAR, FULL = "linear_attention", "full_attention"
SHAPE = {
    "vocab_size": VOCAB,
    "num_hidden_layers": 5,
    "layer_types": [LINEAR, FULL, LINEAR, FULL, LINEAR],
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
KEPT = {
    "delta_net": {"key_groups": (0, 2, 3)},
    "attention": {"q_heads": (0, 3)},
    "mlp": {"intermediate": tuple(range(5, 45))},
    "moe": {"experts": (0, 2, 3, 4, 6, 7), "top_k": (0, 1), "shared_width": tuple(range(3, 35))},
}
FAMILIES = ["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_5", "qwen3_5_moe"]
PROMPT = list(range(407, 440))


def parent_of(family, folder):
    if family in CLASSES:  # with a vision part, and steps of multi-token prediction
        saved(folder, family, **SHAPE, tie_word_embeddings=family == "qwen3_5")
    else:
        form = {**FORMS[family]["plain"], **SHAPE}
        theirs_of(family, form, seed=3).save_pretrained(folder)
    shutil.copy(embedded.teacher_path() / "tokenizer.json", folder)
    return Checkpoint.open(folder)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_hybrid_says_the_same_in_llama_cpp_in_transformers_and_here(family, tmp_path):
    """The first layer goes: which layers are DeltaNet follows no interval any more."""
    parent = parent_of(family, tmp_path / "parent")
    kept = [KEPT[block.kind] for block in parent.architecture.blocks]
    student = cut(parent, Selection(blocks=(None, None, *kept[2:])), tmp_path / "cut")
    model = load_model(student).eval()
    ours = PROMPT + generate(model, [PROMPT], STEPS)[0]
    log_p = torch.log_softmax(model(torch.tensor([ours]))[0], -1)[len(PROMPT) - 1 : -1]

    theirs = AutoModelForCausalLM.from_pretrained(student.path, dtype=torch.float32).eval()
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    assert theirs.generate(torch.tensor([PROMPT]), pad_token_id=1, **options)[0].tolist() == ours

    written = export_gguf(student, tmp_path / "x.gguf")
    assert any("vision" in note for note in written.notes) == (family in CLASSES)
    with LlamaCpp(tmp_path / "x.gguf") as server:
        tokens, steps = server.greedy(PROMPT, STEPS)
    assert PROMPT + tokens == ours
    assert sum(map(bool, steps)) > STEPS - 8
    assert largest_difference(steps, log_p) <= 1e-4


REFUSED = {
    "attention alone": ({"layer_types": [FULL] * 5}, "no DeltaNet block"),
    "DeltaNet alone": ({"layer_types": [LINEAR] * 5}, "no attention block"),
    "value_dim apart from key_dim": ({"linear_value_head_dim": 8}, "16 channels of keys and 8"),
    "another epsilon": ({"rms_norm_eps": 1e-5}, "rms_norm_eps 1e-05"),
    "biases": ({"attention_bias": True}, "attention_bias"),
    "gates as they are": ({"norm_topk_prob": False}, "norm_topk_prob"),
    "a dense layer": ({"mlp_only_layers": [1]}, "dense feed-forward"),
    "dense": ({"num_experts": 0}, "dense feed-forward"),
    "RoPE": ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type linear"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_llama_cpp_has_no_place_for(what):
    fields, says = REFUSED[what]
    form = {**FORMS["qwen3_next"]["plain"], **SHAPE, **fields}
    architecture = families.find("qwen3_next").architecture({"model_type": "qwen3_next", **form})
    with pytest.raises(UserError, match="no place") as caught:
        layout_of("qwen3_next", architecture)
    assert says in str(caught.value)


def test_sizes_of_their_own_are_refused():
    form = {**FORMS["qwen3_5_text"]["plain"], **SHAPE}
    whole = families.find("qwen3_5_text").architecture({"model_type": "qwen3_5_text", **form})
    first, *others = whole.blocks
    apart = replace(whole, blocks=(replace(first, key_groups=2), *others))
    with pytest.raises(UserError, match="no place") as caught:
        layout_of("qwen3_5_text", apart)
    assert "differ in key_groups" in str(caught.value)
