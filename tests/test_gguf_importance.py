"""K-formats of GGUF: llama-quantize is given what transformers reads, in the order of the file."""

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from shutil import which

import gguf
import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny
from family_models import unclamped
from helpers import TEXT, run
from llama_cpp_server import LlamaCpp
from llama_quantize import importances
from test_gguf_delta import parent_of as delta_parent
from test_gguf_experts import parent_of as experts_parent
from transformers import AutoModelForCausalLM

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import InternalError, UserError
from minipuzzle.export import gguf_columns, llama_quantize
from minipuzzle.export.gguf import Exported, layout_of
from minipuzzle.export.inputs import Squares, squared_inputs
from minipuzzle.model import load_model
from minipuzzle.runs.calibrated import calibration
from minipuzzle.runs.export import run_export
from minipuzzle.settings import Data

TOKENS = torch.randint(0, 4096, (2, 24), generator=torch.Generator().manual_seed(0))


def transformers_of(path):
    """transformers' model in FP64."""
    theirs = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float64, experts_implementation="eager"
    )
    return unclamped(theirs.eval())


def linear_squares(theirs, tokens):
    """Sums of squares [columns] of what each linear layer reads, by its name."""
    found = {}

    def read(name):
        return lambda module, given: found.setdefault(name, []).append(given[0].flatten(0, -2))

    layers = {n: m for n, m in theirs.named_modules() if isinstance(m, torch.nn.Linear)}
    handles = [m.register_forward_pre_hook(read(n)) for n, m in layers.items()]
    with torch.no_grad():
        theirs(tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(rows).square().sum(0) for name, rows in found.items()}


@torch.no_grad()
def test_experts_and_what_is_beside_them_read_what_transformers_does(tmp_path):
    checkpoint = experts_parent("latent experts in groups, dense too", tmp_path / "model")
    found = squared_inputs(load_model(checkpoint).eval(), TOKENS.split(1))
    theirs, seen = transformers_of(tmp_path / "model"), {}
    for index, layer in enumerate(theirs.model.layers):
        if hasattr(layer.mixer, "experts"):
            layer.mixer.experts.register_forward_pre_hook(
                lambda module, given, index=index: seen.update({index: (module, *given[:2])})
            )
    dense = linear_squares(theirs, TOKENS)
    names = checkpoint.family.names(checkpoint.architecture)
    for name, squares in found.items():
        if name.endswith(".weight"):
            layer = names[name][0].removesuffix(".weight").replace("backbone.", "model.", 1)
            np.testing.assert_allclose(squares.sums[0], dense[layer], rtol=1e-4)
            assert squares.counts.tolist() == [TOKENS.numel()]
    assert len(seen) == 2
    for index, (experts, rows, chosen) in seen.items():
        up, down = (found[f"blocks.{index}.experts.{n}_proj"] for n in ("up", "down"))
        for expert in range(len(up.counts)):
            mine = rows[(chosen == expert).any(-1)]  # [n, latent]
            assert up.counts[expert] == down.counts[expert] == len(mine)
            channels = experts.act_fn(mine @ experts.up_proj[expert].T)
            for squares, read in ((up, mine), (down, channels)):
                want = read.square().sum(0)
                np.testing.assert_allclose(squares.sums[expert], want, rtol=1e-4, atol=1e-9)
        assert up.counts.sum() == chosen.numel()


@pytest.mark.parametrize("family", ["qwen3_5_moe_text", "qwen3_next", "nemotron_h"])
def test_columns_are_in_the_order_of_the_file(family, tmp_path):
    """Errors of a matrix weigh the same in our order and in the file's."""
    if family == "nemotron_h":
        checkpoint = experts_parent("experts", tmp_path / "model")
    else:
        checkpoint = delta_parent(family, tmp_path / "model")
    architecture, draws = checkpoint.architecture, torch.Generator().manual_seed(0)
    layout, model = layout_of(family, architecture)
    listed = layout.tensors(architecture, model)
    squares, weighed = {}, {}
    for index, block in enumerate(architecture.blocks):
        for name in block.matrices:
            weight = checkpoint.tensor(f"blocks.{index}.{name}").double()
            sums = torch.rand(weight[..., 0, :].shape, generator=draws, dtype=torch.float64)
            sums = sums.reshape(-1, weight.shape[-1])  # [experts, columns]
            counts = torch.arange(len(sums)) + 3
            squares[f"blocks.{index}.{name}"] = Squares(sums=sums, counts=counts)
            each = weight.reshape(len(sums), -1, weight.shape[-1]).square().sum(1) * sums
            weighed[f"blocks.{index}.{name}"] = float((each / counts[:, None]).sum())
    given = llama_quantize.Importance(squares=squares, blocks=2, length=24)
    file = tmp_path / "imatrix.gguf"
    llama_quantize._write(gguf, checkpoint, file, listed, given)
    found, sums = importances(file), dict.fromkeys(weighed, 0.0)
    for tensor in listed:
        if tensor.source in sums:
            made = tensor.convert(checkpoint.tensor(tensor.source)).double()
            made = made.reshape(len(found[tensor.name]), -1, made.shape[-1]).square().sum(1)
            mine = torch.from_numpy(found[tensor.name])
            sums[tensor.source] += float((made * mine).sum())
    assert sums == pytest.approx(weighed, rel=1e-5)
    fields = gguf.GGUFReader(file).fields
    assert fields["imatrix.chunk_count"].contents() == 2
    assert fields["imatrix.chunk_size"].contents() == 24
    assert fields["general.type"].contents() == "imatrix"


@pytest.fixture
def tool(tmp_path_factory, monkeypatch):
    """llama-quantize on PATH: the real one, or tests/llama_quantize.py."""
    if which(llama_quantize.TOOL) is None:
        program = tmp_path_factory.mktemp("bin") / llama_quantize.TOOL
        script = Path(__file__).with_name("llama_quantize.py")
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def test_k_formats_are_rounded_by_what_matrices_read(tool, tmp_path, capsys, monkeypatch):
    path = save(shaken(tiny("M-*", intermediate=256)), tmp_path / "model")
    target, given = tmp_path / "out" / "x.gguf", []
    write = llama_quantize._write

    def kept(library, checkpoint, file, *rest):
        write(library, checkpoint, file, *rest)
        given.append(importances(file))

    monkeypatch.setattr(llama_quantize, "_write", kept)
    text = ("--calibration", TEXT, "--samples", 2, "--length", 64, "--device", "cpu")
    run("export", path, "--gguf", target, "--dtype", "q4_k_m", *text, "--json")
    shown = capsys.readouterr()
    said = json.loads(shown.out)
    assert list(target.parent.iterdir()) == [target]
    tensors = gguf.GGUFReader(target).tensors
    stored = {tensor.name: tensor.tensor_type.name for tensor in tensors}
    planned = sum(int(tensor.n_bytes) for tensor in tensors)
    assert f"bytes of tensors become {planned:,}, " in shown.err
    assert stored["blk.1.ffn_down.weight"] in ("Q4_K", "Q6_K")
    assert stored["blk.1.ffn_up.weight"] == "Q5_0"
    assert (said["dtype"], said["tensors"]) == ("q4_k_m", len(stored))
    assert said["types"] == Counter(stored.values())
    [odd] = (note for note in said["notes"] if note.startswith("256 does not divide"))
    assert "Q5_0 for " in odd
    assert ", ffn_up (32, layers 1), " in odd
    assert "ffn_down" not in odd
    tokens = calibration(Checkpoint.open(path), Data(calibration=str(TEXT), length=64)).tokens[:2]
    theirs = linear_squares(transformers_of(path), torch.from_numpy(tokens.astype(int)))
    del theirs["lm_head"]
    names = {"in_proj": "ssm_in", "out_proj": "ssm_out", "o_proj": "attn_output"}
    assert len(given[0]) == len(theirs)
    for layer, sums in theirs.items():
        _, _, number, _, own = layer.split(".")
        kind = names.get(own, f"{'attn' if own[1] == '_' else 'ffn'}_{own.removesuffix('_proj')}")
        mine = given[0][f"blk.{number}.{kind}.weight"]
        np.testing.assert_allclose(mine[0], sums / tokens.size, rtol=1e-3, atol=1e-9)
    with LlamaCpp(target) as server:
        assert len(server.greedy(list(range(407, 440)), 2)[0]) == 2


def test_another_file_than_was_planned_and_none_are_refused(tool, tmp_path, monkeypatch):
    types = llama_quantize._types
    monkeypatch.setattr(
        llama_quantize, "_types", lambda *file: {**types(*file), "output.weight": ("Q2_K", 32)}
    )
    source = Checkpoint.open(save(shaken(tiny("M-*", intermediate=256)), tmp_path / "model"))
    text = {"data": Data(calibration=str(TEXT), length=64), "samples": 1, "device": "cpu"}
    with pytest.raises(InternalError, match="output"):
        run_export(source, tmp_path / "out" / "x.gguf", "q4_k_m", **text)
    called = llama_quantize._called
    monkeypatch.setattr(
        llama_quantize, "_called", lambda *how: called(*how) if "--dry-run" in how[1] else "done"
    )
    with pytest.raises(UserError, match="did not write q4_k_m"):
        run_export(source, tmp_path / "out" / "x.gguf", "q4_k_m", **text)
    assert not list((tmp_path / "out").iterdir())


def odd_sentences(architecture, format="q4_k_m"):
    """What is said where every matrix of a GGUF is Q5_0."""
    layout, model = layout_of("nemotron_h", architecture)
    listed = layout.tensors(architecture, model)
    shapes = {tensor.name: tensor.shape for tensor in architecture.tensors()}
    matrices = {tensor.name: tensor.source for tensor in listed if tensor.matrix}
    kinds = {name: ("Q5_0", shapes[source][-1]) for name, source in matrices.items()}
    kinds["blk.0.ssm_d"] = ("F32", 1)  # no matrix, and no odd one
    return gguf_columns.sentences(architecture, listed, kinds, format)


def test_what_a_search_must_keep_to_is_said_and_makes_whole_blocks():
    wide = {"hidden": 320, "intermediate": 640, "heads": 42, "head_dim": 64, "groups": 6}
    parent = tiny("M*-", q_heads=40, vocab=64, **wide)
    found = odd_sentences(parent)
    assert found[-2] == (
        "whole blocks of 256 by a search with search.vary hidden in multiples of 256,"
        " search.vary heads in multiples of 12, search.multiple 256 (FFN channels)"
    )
    assert found[-1].startswith("no cut brings 1 of these ")  # four heads of 80 channels
    mamba, attention, ffn = parent.at_hidden(256).blocks
    cut = (mamba.resized(heads=36), attention, ffn.resized(intermediate=512))
    found = odd_sentences(replace(parent.at_hidden(256), blocks=cut))
    assert found[0] == "256 does not divide these columns: Q5_0 for attn_output (320, layers 1)"
    assert len(found) == 2
    for heads in (6, 18, 30):  # six groups; heads of a quarter of a block
        assert mamba.resized(heads=heads).projections["out_proj"][1] % 256
    assert odd_sentences(parent, "iq4_nl") == []
    found = odd_sentences(tiny("M*-M"))
    assert "Q5_0 for token_embd (32), ssm_in (32, layers 0, 3), ssm_out (" in found[0]
    assert not any("by a search" in sentence for sentence in found)  # all < 256


def test_the_command_names_settings_as_a_search_is_told(checkpoint, tmp_path, capsys, monkeypatch):
    written = {"path": tmp_path, "dtype": "q4_k_m", "bytes": 1, "tensors": 1, "types": {"Q5_0": 1}}
    found = Exported(**written, parameters=1, notes=("search.multiple 256 (FFN channels)",))
    monkeypatch.setattr("minipuzzle.runs.export.run_export", lambda *_, **__: found)
    run("export", checkpoint, "--gguf", tmp_path / "x.gguf", "--dtype", "q4_k_m")
    assert "note: --multiple 256 (FFN channels)\n" in capsys.readouterr().out


def test_a_format_that_the_tool_refuses_leaves_nothing_behind(tool, tmp_path, capsys):
    path = save(shaken(tiny("M-*", intermediate=256)), tmp_path / "model")
    target = tmp_path / "out" / "x.gguf"  # it writes none without what matrices read
    run("export", path, "--gguf", target, "--dtype", "iq1_s", "--samples", 0, code=2)
    said = " ".join(capsys.readouterr().err.split())
    assert "llama-quantize did not write iq1_s" in said
    assert "exit code 1" in said
    assert not list(target.parent.iterdir())


def test_without_llama_quantize_it_is_said_what_to_install(
    checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    target = tmp_path / "out" / "x.gguf"
    run("export", checkpoint, "--gguf", target, "--dtype", "q4_k_m", code=2)
    said = " ".join(capsys.readouterr().err.split())
    assert "llama-quantize, which writes K- and IQ-formats, is not installed" in said
    assert "brew install llama.cpp" in said
    assert not target.parent.exists()
