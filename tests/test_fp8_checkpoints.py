"""FP8 checkpoints are read as the weights that compressed-tensors and transformers make of them."""

import json
from itertools import product

import fp8_folders
import pytest
import torch
from checkpoint_folders import TOKENS, made, say, weights
from fp8_folders import BLOCK, compressed, declare, narrow
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint, reader
from minipuzzle.checkpoint.held import quantised
from minipuzzle.checkpoint.quantised import fp8_of
from minipuzzle.cli import app
from minipuzzle.errors import UserError
from minipuzzle.export.verdicts import verdicts
from minipuzzle.model import load_model
from minipuzzle.surgery import cut

HOW = {
    "compressed-tensors, a scale a tensor": ("tensor", "weight_scale", compressed("tensor")),
    "compressed-tensors, a scale a row": ("channel", "weight_scale", compressed("channel")),
    "compressed-tensors, a scale a block": ("block", "weight_scale", compressed("block")),
    "DeepSeek's blocks": (
        "block",
        "weight_scale_inv",
        {"quant_method": "fp8", "weight_block_size": BLOCK},
    ),
    "ModelOpt": ("tensor", "weight_scale", None),
}


def both(tmp_path, family, strategy, named="weight_scale", dtype=torch.float32):
    """(a folder of FP8, the same with the weights that compressed-tensors makes of it)."""
    narrowed, plain = made(tmp_path / "fp8", family), made(tmp_path / "plain", family)
    for folder in (narrowed, plain):
        weights(folder, lambda t: {n: v.to(dtype) for n, v in t.items()})
        say(folder, dtype=str(dtype).removeprefix("torch."))
    again = narrow(narrowed, strategy, named)
    weights(plain, lambda t: t | {n: v.to(dtype) for n, v in again.items()})
    return narrowed, plain


@pytest.mark.parametrize(
    ("family", "how"),  # whole matrices, one an expert, one whose rows are in another order
    [*product(["llama", "qwen3_moe"], HOW), ("qwen3_next", "DeepSeek's blocks")],
)
def test_each_number_is_that_of_compressed_tensors(how, family, tmp_path, monkeypatch):
    strategy, named, said = HOW[how]
    narrowed, plain = both(tmp_path, family, strategy, named, torch.bfloat16)
    if said is None:
        asked = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
        (narrowed / "hf_quant_config.json").write_text(json.dumps(asked))
    else:
        say(narrowed, quantization_config=said)
    ours, expected = Checkpoint.open(narrowed), Checkpoint.open(plain)
    assert "FP8 codes with scales" in ours.notes[0]
    for pieces in (reader.PIECE_BYTES, 100):  # of a few rows: they begin within blocks of scales
        monkeypatch.setattr(reader, "PIECE_BYTES", pieces)
        for planned in ours.architecture.tensors():
            want = expected.tensor(planned.name)
            assert torch.equal(ours.tensor(planned.name), want), planned.name
            part = torch.empty(planned.shape[0] - 1, *planned.shape[1:])
            ours.read_into(planned.name, part, start=1)
            assert torch.equal(part, want[1:].float()), planned.name
    assert ours.dtype == expected.dtype == "BF16"
    assert ours.plain_bytes == expected.bytes
    assert ours.bytes == sum(v.nbytes for v in load_file(narrowed / "model.safetensors").values())


@pytest.mark.parametrize("how", [h for h in HOW if h != "ModelOpt"])
@torch.no_grad()
def test_logits_are_those_of_transformers(how, tmp_path, monkeypatch):
    strategy, named, said = HOW[how]
    if "weight_block_size" in said:  # which transformers wants to divide the sizes
        monkeypatch.setattr(fp8_folders, "BLOCK", [8, 16])
        said = said | {"weight_block_size": [8, 16]}
    folder, _ = both(tmp_path, "llama", strategy, named)
    say(folder, quantization_config=said | {"dequantize": True})
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = theirs.eval()(TOKENS, use_cache=False).logits
    got = load_model(Checkpoint.open(folder)).eval()(TOKENS)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_student_of_an_fp8_parent_is_plain(tmp_path):
    folder, plain = both(tmp_path, "llama", "channel")
    declare(folder, "channel")
    weights(folder, lambda t: t | {"model.layers.0.self_attn.k_proj.k_scale": torch.ones(1)})
    parent = Checkpoint.open(folder)
    whole = Selection.everything(parent.architecture)
    students = [cut(Checkpoint.open(f), whole, tmp_path / f.name / "cut") for f in (folder, plain)]
    values = [load_file(s.path / "model.safetensors") for s in students]
    assert values[0].keys() == values[1].keys()
    assert all(torch.equal(v, values[1][name]) for name, v in values[0].items())
    assert "quantization_config" not in students[0].config


def test_other_scales_are_another_model(tmp_path):
    folder, _ = both(tmp_path, "llama", "channel")
    declare(folder, "channel")
    before = Checkpoint.open(folder).fingerprint
    name = "model.layers.1.self_attn.o_proj.weight_scale"
    weights(folder, lambda t: t | {name: t[name] * 2})
    assert Checkpoint.open(folder).fingerprint != before


SCALE = "model.layers.0.self_attn.q_proj.weight_scale"
WRONG = {
    "a scale of another shape": (lambda t: t | {SCALE: t[SCALE][1:]}, [SCALE, "shape or dtype"]),
    "a scale of whole numbers": (lambda t: t | {SCALE: t[SCALE].byte()}, [SCALE, "U8"]),
    "no scale": (lambda t: {n: v for n, v in t.items() if n != SCALE}, ["have no scales", SCALE]),
    "a scale of nothing": (lambda t: t | {"model.norm.weight_scale": t[SCALE]}, ["model.norm"]),
    "not a number": (
        lambda t: t | {SCALE: t[SCALE] * torch.nan},
        ["NaN", SCALE.removesuffix("_scale")],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_broken_scales_are_refused(what, tmp_path):
    change, says = WRONG[what]
    folder, _ = both(tmp_path, "llama", "channel")
    declare(folder, "channel")
    weights(folder, change)
    with pytest.raises(UserError) as caught:
        Checkpoint.open(folder).tensor("blocks.0.q_proj.weight")
    assert [words for words in says if words not in str(caught.value)] == []


OTHERS = {
    "awq": {"quant_method": "awq", "bits": 4},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "modelopt, NVFP4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "compressed-tensors, pack-quantized": compressed("channel") | {"format": "pack-quantized"},
    "compressed-tensors, float-quantized": compressed("channel") | {"transform_config": {"a": 1}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_refused_by_name(name, tmp_path):
    folder, _ = both(tmp_path, "llama", "channel")
    say(folder, quantization_config=OTHERS[name])
    assert fp8_of(OTHERS[name]) is None
    with pytest.raises(UserError, match="quantised") as caught:
        Checkpoint.open(folder)
    assert f"({name})" in str(caught.value)
    found = quantised(folder, json.loads((folder / "config.json").read_text()))
    assert not found.read
    assert found.said == name


def test_inspect_and_export_know_them(tmp_path):
    folder, _ = both(tmp_path, "llama", "channel")
    declare(folder, "channel")
    shown = CliRunner().invoke(app, ["inspect", str(folder)]).output
    assert "quantised (FP8 with scales, compressed-tensors): read as weights" in " ".join(
        shown.split()
    )
    asked = CliRunner().invoke(app, ["inspect", str(folder), "--json"]).output
    sizes = json.loads(asked)["quantised"]["bytes"]
    assert sum(sizes.values()) == Checkpoint.open(folder).bytes
    *others, llama, mlx = verdicts(folder)
    assert {v.loads for v in [*others, mlx]} == {"unproven"}
    assert "tokenizer" in llama.how
