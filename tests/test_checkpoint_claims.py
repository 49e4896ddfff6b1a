"""What config.json claims and the weights contradict: read as transformers reads it (its
logits).
"""

import json

import pytest
import torch
from checkpoint_folders import (
    EMBEDDING,
    FP8,
    HEAD,
    INDEX,
    NORM,
    TOKENS,
    TWO,
    apart,
    fp8,
    made,
    say,
    shards,
    weights,
)
from family_models import FORMS
from helpers import run
from safetensors.torch import load_file, save_file

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint, heads, read_config, write_checkpoint
from minipuzzle.export.verdicts import verdicts
from minipuzzle.surgery import cut, verify_logits


def one_more(values):
    """Another value in the last place."""
    result = values.clone()
    result[-1, -1] += 1
    return result


def embedding(family):
    return "backbone.embeddings.weight" if family in ("mamba2", "nemotron_h") else EMBEDDING


@pytest.mark.parametrize("family", [f for f in FORMS if f != "nemotron_h"])
@pytest.mark.parametrize(
    "file",
    [
        "another head",
        "another head in one number",
        "the same head",
        "the same head in BF16",
        "no embedding",
        "no head",
    ],
)
def test_a_tied_head_is_what_the_file_holds(family, file, tmp_path, monkeypatch):
    name = embedding(family)
    monkeypatch.setattr(heads, "PIECE", 1000)
    made(tmp_path, family, tie_word_embeddings=False)
    weights(
        tmp_path,
        {
            "another head": lambda t: t,
            "the same head": lambda t: t | {HEAD: t[name]},
            "another head in one number": lambda t: t | {HEAD: one_more(t[name])},
            "the same head in BF16": lambda t: (
                t | {name: t[name].bfloat16().float(), HEAD: t[name].bfloat16()}
            ),
            "no embedding": lambda t: {n: v for n, v in t.items() if n != name},
            "no head": lambda t: {n: v for n, v in t.items() if n != HEAD},
        }[file],
    )
    say(tmp_path, tie_word_embeddings=True)
    checkpoint, own = Checkpoint.open(tmp_path), file.startswith("another")
    assert checkpoint.architecture.tied_head == (not own)
    assert read_config(tmp_path)[1] == checkpoint.architecture
    assert checkpoint.parameters == checkpoint.architecture.parameters
    assert [note for note in checkpoint.notes if "head" in note] == list(checkpoint.notes)
    assert bool(checkpoint.notes) == own
    assert apart(tmp_path) <= 1e-5
    if own:
        config = checkpoint.family.config(checkpoint.architecture, checkpoint.config)
        to = tmp_path / "written"
        write_checkpoint(to, checkpoint.architecture, checkpoint.tensor, source=None, config=config)
        assert json.loads((to / "config.json").read_text())["tie_word_embeddings"] is False
        assert apart(to) <= 1e-5


def test_a_head_of_its_own_stays_one_in_a_cut(tmp_path, capsys):
    made(tmp_path / "parent", tie_word_embeddings=False)
    say(tmp_path / "parent", tie_word_embeddings=True)
    parent = Checkpoint.open(tmp_path / "parent")
    selection = Selection(blocks=(None, None, *({},) * 4), hidden=None)
    saved = cut(parent, selection, tmp_path / "student")
    assert (
        json.loads((tmp_path / "student" / "config.json").read_text())["tie_word_embeddings"]
        is False
    )
    assert torch.equal(
        saved.tensor("head.weight"), load_file(tmp_path / "parent" / "model.safetensors")[HEAD]
    )
    assert verify_logits(parent, saved, selection, TOKENS.numpy(), torch.device("cpu")) <= 1e-5
    assert apart(tmp_path / "student") <= 1e-5
    run("inspect", tmp_path / "parent", "--json")
    assert json.loads(capsys.readouterr().out)["parameters"] == parent.parameters


def test_without_all_weights_the_config_is_believed(tmp_path):
    made(tmp_path, tie_word_embeddings=False)
    say(tmp_path, tie_word_embeddings=True)
    shards(tmp_path)
    assert not read_config(tmp_path)[1].tied_head
    (tmp_path / TWO).unlink()
    assert read_config(tmp_path)[1].tied_head
    (tmp_path / INDEX).unlink()
    assert read_config(tmp_path)[1].tied_head


def beside(folder):
    values = shards(folder)
    save_file(
        {n: v * 1.5 for n, v in values.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


READ = {
    "a total_size of another model": (shards, None),
    "an index that lacks a tensor": (
        lambda f: shards(f, lambda w: {n: s for n, s in w.items() if n != NORM}),
        "1 tensors are read that",
    ),
    "a whole file beside an index of another model": (beside, "model.safetensors is read"),
    "a shard that no index names": (
        lambda f: shards(f) and save_file({"x": torch.ones(1)}, f / "extra.safetensors"),
        None,
    ),
    "another dtype": (lambda f: say(f, dtype="bfloat16", torch_dtype="float16"), None),
    "RoPE's speeds": (
        lambda f: weights(
            f, lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        ),
        "RoPE's speeds",
    ),
    "quantised, and it is not": (lambda f: say(f, quantization_config=FP8), "quantised (fp8)"),
    "heads of another number, all shapes the same": (
        lambda f: say(f, num_attention_heads=8, num_key_value_heads=4, head_dim=4),
        None,
    ),
}


@pytest.mark.parametrize("claim", READ)
def test_read_as_transformers_reads_it(claim, tmp_path):
    change, note = READ[claim]
    change(made(tmp_path))
    notes = Checkpoint.open(tmp_path).notes
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]
    assert apart(tmp_path) <= 1e-5


def test_what_a_config_said_of_other_weights_is_not_written(tmp_path):
    made(tmp_path / "parent")
    say(
        tmp_path / "parent",
        quantization_config=FP8,
        compression_config={"a": 1},
        torch_dtype="bfloat16",
        dtype="float16",
        transformers_weights="model.safetensors",
        unsloth_fixed=True,
    )
    cut(Checkpoint.open(tmp_path / "parent"), Selection(blocks=({},) * 6), tmp_path / "student")
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert not {"quantization_config", "compression_config", "transformers_weights"} & config.keys()
    assert (config["dtype"], config["torch_dtype"], config["unsloth_fixed"]) == (
        "float32",
        "float32",
        True,
    )
    assert apart(tmp_path / "student") <= 1e-5


@pytest.mark.parametrize("where", ["weights", "config", "config and weights", "a file of modelopt"])
def test_no_engine_is_promised_for_weights_in_a_form_that_is_not_known(where, tmp_path):
    made(tmp_path)
    if "weights" in where:
        fp8(tmp_path)
    if "config" in where:
        say(tmp_path, quantization_config=FP8)
    if "modelopt" in where:
        (tmp_path / "hf_quant_config.json").write_text("{}")
    for verdict in verdicts(tmp_path):
        expected = "unproven" if "weights" in where and verdict.engine != "llama.cpp" else "no"
        assert (verdict.loads, "quantised" in verdict.how or "tokenizer" in verdict.how) == (
            expected,
            True,
        ), verdict
    (tmp_path / "model.safetensors").unlink()
    assert {v.loads for v in verdicts(tmp_path)} == (
        {"unproven", "no"} if where != "weights" else {"yes", "no"}
    )


def test_fp8_without_scales_is_read_here_and_promised_for_no_other_engine(tmp_path):
    made(tmp_path)
    weights(tmp_path, lambda t: t | {NORM: t[NORM].to(torch.float8_e4m3fn)})
    assert apart(tmp_path) <= 1e-5
    *others, llama, mlx = verdicts(tmp_path)
    assert {(v.loads, "quantised" in v.how) for v in [*others, mlx]} == {("unproven", True)}
    assert "tokenizer" in llama.how  # all that it lacks: the file would be written
