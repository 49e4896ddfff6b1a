"""Qwen 3.5 with a vision part and multi-token prediction: what is no text is copied byte for byte,
what drafts tokens is kept; a tiny one goes through every command.
"""

import json
import shutil

import pytest
import torch
from conftest import VOCAB
from form_sizes import EXPERTS
from helpers import FAST, TEXT, run
from hybrid_forms import QWEN3_5
from safetensors.torch import load_file, save_file
from test_pipeline_families import DISTILL, SEARCH
from transformers import (
    AutoConfig,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
)

from minipuzzle import embedded, families
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.model import load_model
from minipuzzle.runs.quantize import run_quantize
from minipuzzle.surgery import cut

VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}
TEXT_CONFIG = {**QWEN3_5, "num_hidden_layers": 4, "layer_types": None, "rope_parameters": ROPE}
SHORT = ("--tokens", 1024, "--short-tokens", 256, *DISTILL[4:])
CLASSES = {
    "qwen3_5": (Qwen3_5ForConditionalGeneration, {}),
    "qwen3_5_moe": (
        Qwen3_5MoeForConditionalGeneration,
        {**EXPERTS, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
    ),
}


@torch.no_grad()
def saved(folder, name, **text):
    """A checkpoint with tensors of multi-token prediction, which transformers would not write."""
    theirs, own = CLASSES[name]
    config = AutoConfig.for_model(
        name,
        text_config={**TEXT_CONFIG, **own, **text},
        vision_config=VISION,
        tie_word_embeddings=text.get("tie_word_embeddings", False),
    )
    torch.manual_seed(0)
    model = theirs(config).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.05))
    model.get_input_embeddings().weight.mul_(4)  # a random model that has an opinion
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    held = load_file(file)
    layer = "model.language_model.layers.3."
    drafting = {
        f"mtp.layers.0.{n.removeprefix(layer)}": t + 1 for n, t in held.items() if layer in n
    }
    drafting |= {
        f"mtp.{n}.weight": torch.randn(32)
        for n in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
    }
    drafting["mtp.fc.weight"] = torch.randn(32, 64)
    held["model.visual.merger.norm.bias"] = held["model.visual.merger.norm.bias"].bfloat16()
    save_file(held | drafting, file, metadata={"format": "pt"})
    said = json.loads((folder / "config.json").read_text())
    said["text_config"]["mtp_num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(said))
    return folder


def beside(folder, prefixes=("model.visual.", "mtp.")):
    held = {}
    for file in folder.glob("*.safetensors"):
        held |= load_file(file)
    return {name: tensor for name, tensor in held.items() if name.startswith(prefixes)}


def same(one, other):
    assert one.keys() == other.keys()
    return all(one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one)


def test_from_checkpoint_to_student(tmp_path, capsys):
    parent = saved(tmp_path / "parent", "qwen3_5", vocab_size=VOCAB, tie_word_embeddings=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded.teacher_path() / file, parent / file)
    folder, text = tmp_path / "run", tmp_path / "short.txt"
    text.write_text(TEXT.read_text()[:6000])
    run("inspect", parent)
    shown = " ".join(capsys.readouterr().out.split())
    assert "model.visual.* is no text: copied as it is" in shown
    assert "15.04 k parameters beside these, 1 step of *-" in shown
    run("score", parent, "--run", folder, *FAST["score"], "--data", text)
    run("search", "--run", folder, "--data", text, *SEARCH, "--budget", "94%", "--kv-heads")
    assert "hidden keep their size" in " ".join(capsys.readouterr().err.split())
    run("distill", "--run", folder, "--data", text, "--validation", text, *SHORT)
    run("eval", "--run", folder, "--data", text, "--length", 64, "--device", "cpu")
    rows = json.loads((folder / "eval.json").read_text())["rows"]
    assert rows[2]["kl"] < rows[1]["kl"]
    run("export", "--run", folder, "--json")
    student = Checkpoint.open(folder / "student")
    whole = Checkpoint.open(parent)
    assert student.parameters < whole.parameters
    assert student.architecture.hidden == 32
    copied = beside(parent)
    assert len(copied) > 30
    assert same(beside(folder / "student"), copied)
    said = student.config
    assert (said["tie_word_embeddings"], said["text_config"]["tie_word_embeddings"]) == (True, True)
    assert said["text_config"]["rope_parameters"]["mrope_section"] == [1, 1, 0]
    assert said["vision_config"] == whole.config["vision_config"]
    theirs, report = Qwen3_5ForConditionalGeneration.from_pretrained(
        folder / "student", output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "mismatched_keys"))
    tokens = torch.randint(0, VOCAB, (2, 70), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = load_model(student).eval()(tokens)
        assert (theirs.eval()(tokens, use_cache=False).logits - got).abs().max() < 1e-4


@pytest.mark.parametrize("name", CLASSES)
def test_what_drafts_tokens_keeps_its_sizes_and_what_sees_is_copied(name, tmp_path):
    parent = Checkpoint.open(saved(tmp_path / "parent", name))
    fingerprint = parent.fingerprint
    assert any("21 tensors that are no text" in note for note in parent.notes)
    assert any("multi-token prediction" in note for note in parent.notes)
    kept = []
    for block in parent.architecture.blocks:
        chosen = {}
        for width in block.own_widths:
            if width.axis in ("kv_heads", "intermediate", "experts", "key_groups"):
                size = max(1, block.sizes[width.axis] // 2)
                chosen |= width.keep(block, torch.rand(width.score_shape(block)).numpy(), size)
        kept.append(chosen)
    student = cut(parent, Selection(blocks=tuple(kept)), tmp_path / "student")
    theirs = CLASSES[name][0].from_pretrained(student.path).eval()
    tokens = torch.randint(0, 110, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = load_model(student).eval()(tokens)
        assert (theirs(tokens, use_cache=False).logits - got).abs().max() < 1e-4
    assert student.architecture.mtp == parent.architecture.mtp
    assert same(beside(student.path), beside(parent.path))
    sizes = student.config["text_config"]["mtp_sizes"]
    assert sizes["num_attention_heads"] == 4
    assert ("num_experts" in sizes) == (name == "qwen3_5_moe")
    again = cut(student, Selection.everything(student.architecture), tmp_path / "again")
    assert again.fingerprint == student.fingerprint
    if name == "qwen3_5":  # the other has its experts in one tensor, which is refused
        run_quantize(student.path, tmp_path / "fp8", "fp8", 128)
        assert same(beside(tmp_path / "fp8"), beside(parent.path))
        said = json.loads((tmp_path / "fp8" / "config.json").read_text())["quantization_config"]
        assert {"re:.*visual.*", "re:.*mtp.*"} <= set(said["ignore"])
    narrow = Selection(blocks=tuple({} for _ in kept), hidden=tuple(range(16)))
    with pytest.raises(UserError, match="change the size of hidden"):
        cut(parent, narrow, tmp_path / "narrow")
    held = load_file(parent.path / "model.safetensors")
    held["model.visual.merger.norm.bias"] += 1
    save_file(held, parent.path / "model.safetensors", metadata={"format": "pt"})
    assert Checkpoint.open(parent.path).fingerprint != fingerprint


def test_a_text_alone_narrows_what_drafts_tokens(tmp_path):
    """The hidden size of mtp.* goes with the model's; it is neither counted nor run."""
    whole = saved(tmp_path / "whole", "qwen3_5")
    config = json.loads((whole / "config.json").read_text())["text_config"]
    held = {
        name.replace("language_model.", ""): tensor
        for name, tensor in load_file(whole / "model.safetensors").items()
        if "visual" not in name
    }
    text = tmp_path / "text"
    text.mkdir()
    save_file(held, text / "model.safetensors", metadata={"format": "pt"})
    (text / "config.json").write_text(json.dumps(config))
    parent = Checkpoint.open(text)
    assert parent.architecture.mtp_parameters == sum(
        t.numel() for n, t in held.items() if n.startswith("mtp.")
    )
    hidden = tuple(range(0, 32, 2))
    selection = Selection(blocks=tuple({} for _ in parent.architecture.blocks), hidden=hidden)
    student = beside(cut(parent, selection, tmp_path / "student").path, "mtp.")
    both = [*hidden, *(32 + i for i in hidden)]
    assert torch.equal(student["mtp.fc.weight"], held["mtp.fc.weight"][list(hidden)][:, both])
    down = "mtp.layers.0.mlp.down_proj.weight"
    assert torch.equal(student[down], held[down][list(hidden)])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"output_gate_type": "sigmoid"}, ["output_gate_type", "sigmoid", "swish"]),
        ({"attn_output_gate": False}, ["attn_output_gate", "False"]),
        ({"mtp_use_dedicated_embeddings": True}, ["mtp_use_dedicated_embeddings"]),
        ({"linear_num_value_heads": 3}, ["linear_num_value_heads", "3 and 2"]),
        ({"layer_types": ["full_attention"]}, ["layer_types", "4 of"]),
        ({"mtp_sizes": [3]}, ["mtp_sizes"]),
    ],
)
def test_refused_configs(fields, says):
    text = {**TEXT_CONFIG, **fields}
    for name, config in (("qwen3_5_text", text), ("qwen3_5", {"text_config": text})):
        with pytest.raises(UserError) as caught:
            families.find(name).architecture(config)
        assert all(words in str(caught.value) for words in says)
    with pytest.raises(UserError, match="text_config"):
        families.find("qwen3_5").architecture({"text_config": {"model_type": "qwen3_next"}})
