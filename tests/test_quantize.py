"""What quantize writes is llm-compressor's, byte for byte; transformers loads what it means."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_folders import TOKENS, made, say
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from family_models import unclamped
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from minipuzzle import families
from minipuzzle.checkpoint import Checkpoint, read_config
from minipuzzle.checkpoint.planned import planned_bytes, split
from minipuzzle.cli import app
from minipuzzle.embedded import teacher_path
from minipuzzle.errors import UserError
from minipuzzle.export.inputs import largest_inputs
from minipuzzle.memory.formats import FORMATS
from minipuzzle.model import load_model
from minipuzzle.runs.calibrated import calibration
from minipuzzle.runs.quantize import run_quantize
from minipuzzle.settings import Data
from minipuzzle.settings.quantize import QuantizeCommand

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests/golden/llm_compressor.json").read_text())
CASES = {"fp8": 0, "nvfp4": 0, "mxfp4": 0, "int4": 32}


def digest(file):
    """As studies/peers/llm_compressor.py, which needs its library, has it."""
    source = (ROOT / "studies/peers/llm_compressor.py").read_text()
    space = {"hashlib": importlib.import_module("hashlib"), "json": json, "Path": Path}
    exec(source[source.index("def digest") : source.index("def made")], space)
    return space["digest"](file)


@pytest.mark.parametrize("case", GOLDEN)
def test_the_bytes_are_llm_compressors(case, tmp_path):
    name, _, group = case.partition(", ")
    written = run_quantize(teacher_path(), tmp_path / "out", name, int(group or 128))
    file = tmp_path / "out" / "model.safetensors"
    assert digest(file) == GOLDEN[case]
    assert written.bytes == sum(tensor.nbytes for tensor in load_file(file).values())
    assert written.before == Checkpoint.open(teacher_path()).bytes
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_bytes((teacher_path() / "config.json").read_bytes())
    asked = ["quantize", str(tmp_path / "config"), "--format", name, "--group", group or "128"]
    planned = CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False).stdout
    assert json.loads(planned)["bytes"] == written.bytes


def test_47b_in_nvfp4_is_4_and_a_half_bits_and_what_stays_whole():
    """And 27.40 GiB, which docs/decisions/memory-formula.md says."""
    config, model = read_config(ROOT / "docs/examples/nemotron-h-47b")
    pieces = split(families.of(config), model, [(FORMATS["nvfp4"],) * 2] * len(model.blocks))
    shapes = [shape for block in model.blocks for shape in block.projections.values()]
    coded = sum(rows * columns for rows, columns in shapes)
    size = planned_bytes(pieces, lambda name: 2)
    assert size == coded * 9 // 16 + 4 * len(shapes) + 2 * (model.parameters - coded)
    assert f"{size / 2**30:.2f}" == "27.40"


def plain(source, folder, target):
    """A copy of ``source`` that has the weights which compressed-tensors makes of a quantised
    ``folder``."""
    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    scheme = QuantizationScheme(**said["config_groups"]["group_0"])
    compressor = BaseCompressor.get_value_from_registry(said["format"])
    values, layers = load_file(folder / "model.safetensors"), {}
    for name in values:
        layer, _, part = name.rpartition(".")
        layers.setdefault(layer, {})[part] = values[name]
    found = load_file(source / "model.safetensors")
    for layer, state in layers.items():
        if "weight_scale" in state:
            weight = compressor.decompress(state, scheme)["weight"]
            found[f"{layer}.weight"] = weight.to(found[f"{layer}.weight"].dtype)
    target.mkdir()
    (target / "config.json").write_text((source / "config.json").read_text())
    save_file(found, target / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def same_logits(source, name, group, tmp_path, tokens):
    """Our model with the weights that the file means against transformers' of the file."""
    out = tmp_path / "out"
    run_quantize(source, out, name, group)
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    if name == "fp8":
        ours = load_model(Checkpoint.open(out)).eval()
    else:
        plain(source, out, tmp_path / "plain")
        ours = load_model(Checkpoint.open(tmp_path / "plain")).eval()
    say(out, quantization_config={**config, "dequantize": True})
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    expected = unclamped(theirs)(tokens, use_cache=False).logits
    assert (ours(tokens) - expected).abs().max() <= 1e-5 * expected.abs().max()
    return config


@pytest.mark.parametrize("name", CASES)
def test_transformers_loads_the_teacher(name, tmp_path):
    tokens = torch.randint(0, 4096, (1, 40), generator=torch.Generator().manual_seed(0))
    config = same_logits(teacher_path(), name, CASES[name], tmp_path, tokens)
    assert config["ignore"] == ["lm_head"]
    assert config["format"] == FORMATS[name].packing


EXPERT = "model.layers.0.mlp.experts.1"


@pytest.mark.parametrize("name", ["fp8", "int4"])
def test_experts_are_matrices_and_routers_stay_whole(name, tmp_path):
    source = made(tmp_path / "source", "qwen3_moe", moe_intermediate_size=32)
    config = same_logits(source, name, 32, tmp_path, TOKENS)
    assert config["ignore"] == ["lm_head", "re:.*\\.mlp\\.gate$"]
    values = load_file(tmp_path / "out" / "model.safetensors")
    assert values["model.layers.0.mlp.gate.weight"].dtype == torch.float32
    assert f"{EXPERT}.down_proj.weight_scale" in values


def test_matrices_that_engines_join_share_a_scale(tmp_path):
    # transformers 5.23 leaves it out where it reads experts
    source = made(tmp_path / "source", "qwen3_moe", moe_intermediate_size=32)
    run_quantize(source, tmp_path / "out", "nvfp4", 128)
    values = load_file(tmp_path / "out" / "model.safetensors")
    weights = load_file(source / "model.safetensors")
    attention = [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]
    for layers in (attention, [f"{EXPERT}.{n}_proj" for n in ("gate", "up")]):
        top = torch.cat([weights[f"{layer}.weight"] for layer in layers]).abs().max()
        assert {float(values[f"{layer}.weight_global_scale"]) for layer in layers} == {
            float(448 * 6 / top)
        }
    alone = weights[f"{EXPERT}.down_proj.weight"].abs().max()
    assert values[f"{EXPERT}.down_proj.weight_global_scale"] == 448 * 6 / alone


@torch.no_grad()
def test_static_scales_are_of_what_transformers_reads(tmp_path):
    out, source = tmp_path / "out", teacher_path()
    written = run_quantize(source, out, "fp8-static", 128, data=Data(length=64), samples=6)
    values = load_file(out / "model.safetensors")
    assert written.bytes == sum(tensor.nbytes for tensor in values.values())
    theirs = unclamped(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval())
    seen = {}

    def read(name):
        return lambda module, inputs: seen.setdefault(name, []).append(inputs[0].abs().max())

    layers = {
        name: module
        for name, module in theirs.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    for name, module in layers.items():
        module.register_forward_pre_hook(read(name.replace("model.", "backbone.", 1)))
    tokens = calibration(Checkpoint.open(source), Data(length=64)).tokens[:6]
    theirs(torch.from_numpy(tokens.astype("int64")), use_cache=False)
    weights = load_file(source / "model.safetensors")
    assert len(layers) == len([name for name in values if name.endswith("input_scale")]) == 32
    for name, tops in seen.items():
        for part, top in (("input", max(tops)), ("weight", weights[f"{name}.weight"].abs().max())):
            scale = values[f"{name}.{part}_scale"]
            assert (scale.dtype, scale.shape) == (torch.bfloat16, (1,))
            assert float(scale) == pytest.approx(float(top) / 448, rel=2**-8), (name, part)
    again = Checkpoint.open(out)
    matrix = again.tensor("blocks.0.in_proj.weight").float()
    whole = weights["backbone.layers.0.mixer.in_proj.weight"].float()
    assert (matrix - whole).abs().max() <= whole.abs().max() / 16


def test_what_experts_read_is_not_measured(tmp_path):
    source = load_model(Checkpoint.open(made(tmp_path, "qwen3_moe")))
    with pytest.raises(UserError, match="without a token"):
        largest_inputs(source, [TOKENS])


def test_columns_that_groups_do_not_divide(tmp_path):
    with pytest.raises(UserError) as caught:
        run_quantize(teacher_path(), tmp_path / "out", "int4", 128)
    said = str(caught.value)
    assert all(words in said for words in ("192 columns in 20 matrices", "multiples of 128"))
    assert not (tmp_path / "out").exists()


EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
REFUSED = {
    "the checkpoint itself": (lambda f: run_quantize(f, f, "fp8", 128), "another folder"),
    "quantised already": (
        lambda f: run_quantize(
            run_quantize(f, f.parent / "one", "fp8", 128).path, f.parent / "two", "fp8", 128
        ),
        "quantised already",
    ),
    "a group of another size": (lambda f: QuantizeCommand(checkpoint=f, group=48), "32, 64, 128"),
    "experts in one tensor": (
        lambda f: run_quantize(
            made(f.parent / "g", "granitemoehybrid", **EXPERTS), f / "x", "fp8", 128
        ),
        "a matrix an expert",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, tmp_path):
    change, words = REFUSED[what]
    with pytest.raises(UserError, match=words):
        change(made(tmp_path / "source", "llama"))


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "compressed_tensors.compressors", None)
    with pytest.raises(UserError, match=r"minipuzzle\[quant\]"):
        run_quantize(teacher_path(), tmp_path / "out", "fp8", 128)
