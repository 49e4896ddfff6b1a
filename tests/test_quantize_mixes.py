"""A file whose blocks are in several formats: transformers loads what each of them means, and its
bytes are those planned."""

import json
import shutil
from types import SimpleNamespace

import pytest
import streamed_scores
import torch
from checkpoint_folders import TOKENS, made, say
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from compressed_tensors.utils.match import match_name
from family_models import unclamped
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.mix import CHOSEN
from minipuzzle.cli import app
from minipuzzle.embedded import teacher_path
from minipuzzle.errors import UserError
from minipuzzle.memory.formats import format_of
from minipuzzle.model import load_model
from minipuzzle.ranks import alone
from minipuzzle.runs.parent import MaskedParent
from minipuzzle.runs.quantize import run_quantize
from minipuzzle.settings.bits import parse_bits, parts


def with_mix(source, target, *names):
    """A copy of a checkpoint for whose blocks a search chose the formats ``names``, in turn."""
    blocks = len(Checkpoint.open(source).architecture.blocks)
    shutil.copytree(source, target, dirs_exist_ok=True)
    chosen = [names[i % len(names)] for i in range(blocks)]
    say(target, **{CHOSEN: chosen})
    return target, chosen


def plain(source, out, target):
    """``source`` with the weights that compressed-tensors makes of the file in ``out``, each by the
    group whose targets name its layer."""
    said = json.loads((out / "config.json").read_text())["quantization_config"]
    groups = [QuantizationScheme(**group) for group in said["config_groups"].values()]
    values, found, layers = load_file(out / "model.safetensors"), {}, {}
    for name, value in values.items():
        layer, _, part = name.rpartition(".")
        layers.setdefault(layer, {})[part] = value
    for layer, state in layers.items():
        mine = [g for g in groups if any(match_name(layer, target) for target in g.targets)]
        assert len(mine) == ("weight_scale" in state), layer
        if mine:
            assert not any(match_name(layer, ignored) for ignored in said["ignore"]), layer
            compressor = BaseCompressor.get_value_from_registry(mine[0].format)
            found[f"{layer}.weight"] = compressor.decompress(state, mine[0])["weight"]
        else:
            found |= {f"{layer}.{part}": value for part, value in state.items()}
    shutil.copytree(source, target)
    save_file(found, target / "model.safetensors", metadata={"format": "pt"})
    return Checkpoint.open(target)


MIXES = {
    "nemotron_h": ("nvfp4+fp8", "fp8", "bf16+nvfp4", "int4-64"),
    "llama": ("int4-32+fp8", "bf16", "fp8+bf16", "fp8", "bf16"),
}


@pytest.mark.parametrize("family", MIXES)
@torch.no_grad()
def test_transformers_loads_a_mix(family, tmp_path):
    wide = {"hidden_size": 64, "intermediate_size": 64}
    whole = teacher_path() if family == "nemotron_h" else made(tmp_path / "whole", family, **wide)
    source, chosen = with_mix(whole, tmp_path / "source", *MIXES[family])
    out = tmp_path / "out"
    command = CliRunner().invoke(
        app, ["quantize", str(source), "--out", str(out), "--json"], catch_exceptions=False
    )
    values = load_file(out / "model.safetensors")
    written = sum(tensor.nbytes for tensor in values.values())
    assert json.loads(command.stdout)["bytes"] == written
    config = json.loads((out / "config.json").read_text())
    said = config["quantization_config"]
    assert CHOSEN not in config
    assert said["format"] == "mixed-precision"
    assert {g["format"] for g in said["config_groups"].values()} == {
        format_of(name).packing for pair in chosen for name in parts(pair) if name != "bf16"
    }
    for group in said["config_groups"].values():  # activations as they are, as ours has them
        group["input_activations"] = None
    say(out, quantization_config=said)
    tokens = TOKENS if family == "llama" else torch.arange(40)[None]
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()
    theirs(tokens, use_cache=False)  # makes the weights of the codes, in the file's dtype
    torch.nn.Module.float(theirs)
    expected = unclamped(theirs)(tokens, use_cache=False).logits
    ours = load_model(plain(source, out, tmp_path / "plain")).eval()(tokens)
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
    bare = load_model(Checkpoint.open(whole)).eval()(tokens)
    assert (bare - expected).abs().max() > 1e-3 * expected.abs().max()


def test_a_config_alone_says_the_bytes_of_its_mix(tmp_path):
    source, _ = with_mix(teacher_path(), tmp_path / "source", "nvfp4+bf16", "fp8", "bf16")
    written = run_quantize(source, tmp_path / "out", "auto", 128)
    (source / "model.safetensors").unlink()
    asked = ["quantize", str(source), "--json"]
    planned = CliRunner().invoke(app, asked, catch_exceptions=False).stdout
    assert json.loads(planned)["bytes"] == written.bytes
    assert json.loads(planned)["matrices"] == written.matrices


def test_a_format_that_is_named_goes_before_the_mix(tmp_path):
    source, _ = with_mix(teacher_path(), tmp_path / "source", "nvfp4", "bf16")
    named = run_quantize(source, tmp_path / "named", "mxfp4", 128)
    assert named.bytes == run_quantize(teacher_path(), tmp_path / "out", "mxfp4", 128).bytes


@torch.no_grad()
def test_fp8_beside_whole_blocks_is_read_again_and_mixes_are_refused_by_name(tmp_path):
    source, _ = with_mix(teacher_path(), tmp_path / "source", "fp8", "bf16")
    run_quantize(source, tmp_path / "out", "auto", 128)
    file = plain(source, tmp_path / "out", tmp_path / "plain")
    again = Checkpoint.open(tmp_path / "out")
    for i in (0, 1):
        name = f"blocks.{i}.{again.architecture.blocks[i].matrices[0]}"
        assert torch.equal(again.tensor(name), file.tensor(name))
    other, _ = with_mix(teacher_path(), tmp_path / "other", "fp8", "nvfp4")
    run_quantize(other, tmp_path / "mixed", "auto", 128)
    with pytest.raises(UserError, match="mixed-precision"):
        Checkpoint.open(tmp_path / "mixed")


def test_experts_of_a_block_are_one_target(tmp_path):
    whole = made(tmp_path / "whole", "qwen3_moe", moe_intermediate_size=32)
    source, _ = with_mix(whole, tmp_path / "source", "bf16", "int4-32", "fp8", "fp8")
    run_quantize(source, tmp_path / "out", "auto", 128)
    plain(source, tmp_path / "out", tmp_path / "plain")  # each layer has one group
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    targets = [target for group in said["config_groups"].values() for target in group["targets"]]
    assert sum("experts" in target for target in targets) == 2


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (["bf16"], "nothing to quantise"),
        (["int4"], "multiples of 128"),
        (["fp9"], "does not name a format"),
        (["fp8+nvfp4+fp8"], "does not name a format"),
    ],
)
def test_refused(chosen, words, tmp_path):
    source, _ = with_mix(teacher_path(), tmp_path / "source", *chosen)
    with pytest.raises(UserError, match=words):
        run_quantize(source, tmp_path / "out", "auto", 128)
    assert not (tmp_path / "out").exists()


def test_bits_and_names():
    assert parse_bits("") == {}
    assert parse_bits("4..8") == {45: "nvfp4", 80: "fp8"}
    assert parse_bits("4, 8, 16") == parse_bits("4..16") == {45: "nvfp4", 80: "fp8", 160: "bf16"}
    assert list(parse_bits("BF16,nvfp4,int4-64").values()) == ["int4-64", "nvfp4", "bf16"]
    for text in ("5", "4..7", "8..4", "fp8-static", "nvfp4+fp8", "4,,8", "eight"):
        with pytest.raises(UserError, match=r"format|bits"):
            parse_bits(text)


def test_a_search_block_by_block_measures_mixes(tmp_path):
    """Mixes beside each other, where the whole parent measures one after the other."""
    parent, device = streamed_scores.saved_parent(tmp_path / "parent"), streamed_scores.CPU
    kept = ({}, {"intermediate": tuple(range(48))}, *({},) * 6)
    mixes = ("fp8",) * 8, ("fp8", "nvfp4", "fp8", "bf16") * 2
    selections = [Selection(blocks=kept, formats=formats) for formats in mixes]
    job = SimpleNamespace(
        parent=parent, device=device, frozen_parent=lambda group: load_model(parent).eval()
    )
    whole, streamed = (
        MaskedParent(job, streamed_scores.text(), alone(device), rows)._answer(selections, False)
        for rows in (None, 100)
    )
    assert whole == streamed
    assert whole[0].kl != whole[1].kl
