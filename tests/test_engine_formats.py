"""What export says of quantised checkpoints, and the commands that it prints."""

import json
import shlex
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch
from conftest import save, shaken
from helpers import run
from test_engines import PLAIN, changed

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.quantised import form_of
from minipuzzle.embedded import teacher_path
from minipuzzle.export.verdicts import NOT_LOOKED_AT, verdicts
from minipuzzle.memory.formats import FORMATS
from minipuzzle.runs.quantize import run_quantize

LOADS = {  # transformers, vLLM, SGLang, TensorRT-LLM, llama.cpp, mlx
    "fp8": "yes yes yes unproven yes no",
    "fp8-static": "yes yes yes unproven yes no",
    "nvfp4": "yes yes yes unproven no no",
    "mxfp4": "yes yes no unproven no no",
    "int4": "yes yes yes unproven no no",
}


FLOAT = "float-quantized"
FP8 = {"weights": {"num_bits": 8, "type": "float"}, "input_activations": {"dynamic": True}}


def said_of(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_has_its_verdicts(format, tmp_path, monkeypatch):
    if format == "fp8-static":  # no text: scales of ones
        text = SimpleNamespace(model=None, batches=list)
        monkeypatch.setattr("minipuzzle.runs.quantize.calibrated", lambda *_: text)
        monkeypatch.setattr("minipuzzle.runs.quantize.largest_inputs", ones)
    run_quantize(teacher_path(), tmp_path / "out", format, 64)
    assert form_of(said_of(tmp_path / "out")) == format
    found = verdicts(tmp_path / "out")
    assert " ".join(v.loads for v in found) == LOADS[format]
    assert [bool(v.command) for v in found] == [v.loads != "no" for v in found]
    unknown = found[3]
    assert (unknown.source, "not tried" in unknown.how) == (NOT_LOOKED_AT, True)


def ones(*_):
    names = {tensor.name for tensor in Checkpoint.open(teacher_path()).architecture.tensors()}
    return dict.fromkeys(names, torch.ones(1))


def test_forms_that_quantize_does_not_write_have_no_name():
    weights = {"num_bits": 4, "type": "float"}
    said = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
    group = {"weights": weights, "input_activations": None}

    def named(**changes):
        return form_of({**said, "config_groups": {"group_0": group}, **changes})

    assert named() == "nvfp4"
    assert named(config_groups={"group_0": {**group, "input_activations": weights}}) is None
    assert named(config_groups={}) is None
    assert named(quant_method="awq") is named(format="marlin-24") is form_of("8 bits") is None
    mixed = {"group_0": {**group, "format": said["format"]}, "group_1": {**FP8, "format": FLOAT}}
    assert named(config_groups=mixed, format="mixed-precision") == "mixed"
    mixed["group_2"] = {**group, "format": "marlin-24"}
    assert named(config_groups=mixed, format="mixed-precision") is None
    eight = {"weights": {"num_bits": 8, "type": "int"}, "input_activations": None}
    assert named(format="pack-quantized", config_groups={"group_0": eight}) is None


def rows_of(path, capsys):
    capsys.readouterr()
    run("export", path, "--json")
    return {row["engine"]: row for row in json.loads(capsys.readouterr().out)["engines"]}


def test_commands_name_the_checkpoint_and_the_flags_that_it_needs(tmp_path, capsys):
    plain = save(shaken(PLAIN), tmp_path / "a model")
    rows = rows_of(plain, capsys)
    assert shlex.split(rows["vLLM"]["command"]) == ["vllm", "serve", str(plain)]
    assert "--gguf 'a model.gguf' && llama-server" in rows["llama.cpp"]["command"]
    assert all(str(plain) in row["command"] for row in rows.values())
    cut = save(shaken(changed("mlp", intermediate=48)), tmp_path / "cut")
    rows = rows_of(cut, capsys)
    for engine in ("vLLM", "transformers"):
        assert rows[engine]["command"].endswith(f" serve {cut} --trust-remote-code")
    assert rows["mlx"]["command"] == ""
    run("export", cut)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"vLLM: vllm serve {cut} --trust-remote-code" in shown
    assert "mlx: " not in shown


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize("engine", ["SGLang", "TensorRT-LLM"])
def test_the_printed_merge_makes_the_copy_that_the_engine_reads(engine, tmp_path, capsys):
    folder = save(shaken(changed("mlp", intermediate=48)), tmp_path / "it's cut")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    merge, _, start = rows_of(folder, capsys)[engine]["command"].rpartition(" && ")
    subprocess.run(["sh", "-c", merge], check=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    name = engine.lower().replace("-", "_")
    copy = tmp_path / f"it's cut-{name}"
    assert str(copy) in shlex.split(start)
    merged = json.loads((copy / "config.json").read_text())
    overrides = json.loads(before[f"overrides.{name}.json"])
    assert merged == {**json.loads(before["config.json"]), **overrides}
    assert (copy / "model.safetensors").read_bytes() == before["model.safetensors"]
