"""quantize --kv fp8: scales of what transformers caches, where compressed-tensors reads them."""

import json
import shutil

import pytest
import torch
from checkpoint_folders import made, say
from conftest import VOCAB, save, shaken, tiny
from family_models import unclamped
from helpers import TEXT
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.held import quantised
from minipuzzle.cli import app
from minipuzzle.embedded import teacher_path
from minipuzzle.errors import UserError
from minipuzzle.runs.calibrated import calibration
from minipuzzle.runs.quantize import run_quantize
from minipuzzle.settings import Data
from minipuzzle.units import bytes_

DATA = Data(calibration=str(TEXT), length=48)
WITH = {"kv": "fp8", "data": DATA, "samples": 6, "device": "cpu"}
MODULES = {"nemotron_h": "backbone.layers.{}.mixer", "qwen3": "model.layers.{}.self_attn"}


def source_of(family, folder, **fields):
    """With a tokenizer; with RoPE and norms of keys, or with neither."""
    if family == "nemotron_h":
        return save(shaken(tiny("M*-*")), folder)
    made(folder, family, vocab_size=VOCAB, **fields)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(teacher_path() / name, folder)
    return folder


@pytest.mark.parametrize("family", MODULES)
@torch.no_grad()
def test_scales_are_of_what_transformers_caches(family, tmp_path):
    source, out = source_of(family, tmp_path / "source"), tmp_path / "out"
    written = run_quantize(source, out, "fp8", 128, **WITH)
    values = load_file(out / "model.safetensors")
    assert written.bytes == sum(tensor.nbytes for tensor in values.values())
    tokens = torch.from_numpy(calibration(Checkpoint.open(source), DATA).tokens[:6].astype("int64"))
    theirs = unclamped(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval())
    held = theirs(tokens, use_cache=True).past_key_values.layers
    found = {name for name in values if name.endswith(("k_scale", "v_scale"))}
    for index, layer in enumerate(held):
        if (keys := getattr(layer, "keys", None)) is not None:
            module = MODULES[family].format(index)
            for name, cached in (("k_scale", keys), ("v_scale", layer.values)):
                scale = values[f"{module}.{name}"]
                assert (scale.dtype, scale.shape) == (torch.float32, (1,))
                assert float(scale) == pytest.approx(float(cached.abs().max()) / 448, rel=1e-4)
                found.remove(f"{module}.{name}")
    assert not found

    # with the scales it rounds keys and values; with other ones it is another model
    say(out, quantization_config=whole_activations(out))
    logits = [answer(out, tokens)]
    say(out, quantization_config={**said_of(out), "kv_cache_scheme": None})
    logits.append(answer(out, tokens))
    off = (logits[0] - logits[1]).abs().max() / logits[1].abs().max()
    assert 1e-4 < off < 0.1, off


def answer(folder, tokens):
    """Logits of the file in transformers."""
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return unclamped(theirs)(tokens, use_cache=False).logits


def said_of(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def whole_activations(folder):
    said = said_of(folder)
    said["config_groups"]["group_0"]["input_activations"] = None
    return said


def test_inspect_and_plan_say_what_a_cache_in_fp8_takes(tmp_path):
    source = save(shaken(tiny("M*-*")).bfloat16(), tmp_path / "source")
    out = tmp_path / "out"
    written = run_quantize(source, out, "fp8", 128, **WITH)
    without = run_quantize(source, tmp_path / "without", "fp8", 128)
    assert written.bytes == without.bytes + 2 * 2 * 2
    (source / "model.safetensors").unlink()
    plan = asked("quantize", source, "--format", "fp8", "--kv", "fp8", "--json")
    assert json.loads(plan)["bytes"] == written.bytes
    found = json.loads(asked("inspect", out, "--json"))
    assert found["quantised"]["kv"] == "fp8"
    assert "fp8 by" not in asked("inspect", tmp_path / "without")
    priced = json.loads(asked("inspect", out, "--kv", "fp8", "--json"))["memory"]["kv"]
    assert priced == 8192 * 2 * Checkpoint.open(out).architecture.blocks[1].cache(1).kv
    assert f"fp8 by the files' scales, {bytes_(priced)} at" in asked("inspect", out)
    engines = {
        row["engine"]: row["how"] for row in json.loads(asked("export", out, "--json"))["engines"]
    }
    assert "in FP8 by their scales" in engines["vLLM"]
    assert "scales of keys and values: not tried" in engines["SGLang"]
    assert "keys and values" not in asked("export", tmp_path / "without")
    assert Checkpoint.open(out).architecture == Checkpoint.open(tmp_path / "without").architecture


def asked(*words):
    made = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return " ".join(made.stdout.split())


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        {"quant_method": "modelopt", "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
    ],
)
def test_modelopt_says_it_otherwise(said, tmp_path):
    assert quantised(tmp_path, {"quantization_config": said}).kv == "fp8"
    assert quantised(tmp_path, {"quantization_config": {"quant_method": "fp8"}}).kv is None


def test_a_model_that_caches_nothing_is_refused(tmp_path):
    source = save(shaken(tiny("M-")), tmp_path / "source")
    with pytest.raises(UserError, match="caches keys and values"):
        run_quantize(source, tmp_path / "out", "fp8", 128, **WITH)
    assert not (tmp_path / "out").exists()
