"""Checkpoints: names, shards, configs and files that other engines look for."""

import json

import pytest
import torch
from conftest import save, shaken, tiny
from safetensors.torch import load_file
from test_model import theirs_of, unclamped
from transformers import AutoModelForCausalLM

from minipuzzle import embedded, families
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.surgery import cut


def tensors(folder):
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 20_000])
def test_load_and_save_is_bit_exact(tmp_path, shard_bytes):
    theirs = theirs_of({})
    theirs.save_pretrained(tmp_path / "theirs")
    first = Checkpoint.open(tmp_path / "theirs")
    config = first.family.config(first.architecture, first.config)
    write_checkpoint(tmp_path / "ours", first.architecture, first.tensor, source=first, config=config, shard_bytes=shard_bytes)
    before, after = tensors(tmp_path / "theirs"), tensors(tmp_path / "ours")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before)
    again = Checkpoint.open(tmp_path / "ours")
    assert (again.architecture, again.parameters, again.bytes) == (first.architecture, first.parameters, first.bytes)
    index = tmp_path / "ours" / "model.safetensors.index.json"
    assert index.exists() == (shard_bytes < 100_000)
    if index.exists():
        assert json.loads(index.read_text())["metadata"]["total_size"] == again.bytes
    loaded = unclamped(AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval())
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens, use_cache=False).logits, theirs(tokens, use_cache=False).logits)


def test_the_written_config_has_what_each_engine_reads():
    config = json.loads((embedded.teacher_path() / "config.json").read_text())
    assert config["hybrid_override_pattern"] == "M-M-M*-M-M-M*-"  # SGLang, llama.cpp's converter
    assert config["layers_block_type"][:2] == ["mamba", "mlp"]  # legacy names: llama.cpp knows only these
    assert config["n_groups"] == config["mamba_n_groups"] == 2  # SGLang reads both
    assert config["num_hidden_layers"] == 14
    assert "time_step_limit" not in config


def test_native_names_and_a_singular_embedding_are_read(tmp_path):
    """transformers holds ``model.*`` in memory; 5.14 wrote ``backbone.embedding.weight``."""
    from safetensors.torch import save_file

    save(shaken(tiny()), tmp_path)
    file = tmp_path / "model.safetensors"
    values = load_file(file)
    want = Checkpoint.open(tmp_path).tensor("embeddings.weight")
    renamed = {n.replace("backbone.embeddings", "model.embedding").replace("backbone.", "model."): v for n, v in values.items()}
    save_file(renamed, file)
    assert torch.equal(Checkpoint.open(tmp_path).tensor("embeddings.weight"), want)
    save_file({**renamed, "mtp.layers.0.weight": torch.ones(1)}, file)
    Checkpoint.open(tmp_path)


def test_a_tensor_is_read_only_when_asked_for(tmp_path, monkeypatch):
    import safetensors

    save(shaken(tiny()), tmp_path)
    asked = []
    real = safetensors.safe_open
    monkeypatch.setattr(safetensors, "safe_open", lambda *a, **k: asked.append(a) or real(*a, **k))
    checkpoint = Checkpoint.open(tmp_path)
    assert not asked
    checkpoint.tensor("final_norm.weight")
    assert len(asked) == 1


def test_tokenizer_and_generation_config_travel_and_blocks_that_differ_are_named(tmp_path):
    save(shaken(tiny("M-M-")), tmp_path / "parent")
    (tmp_path / "parent" / "generation_config.json").write_text('{"eos_token_id": 7}')
    parent = Checkpoint.open(tmp_path / "parent")
    selection = Selection(blocks=({}, {"intermediate": tuple(range(16))}, {}, {"intermediate": tuple(range(8))}))
    cut(parent, selection, tmp_path / "student")
    student = tmp_path / "student"
    assert json.loads((student / "generation_config.json").read_text()) == {"eos_token_id": 7}
    assert (student / "tokenizer.json").read_bytes() == (tmp_path / "parent" / "tokenizer.json").read_bytes()
    config = json.loads((student / "config.json").read_text())
    assert config["model_type"] == "nemotron_h_puzzle"
    assert [b.get("intermediate_size") for b in config["block_configs"]] == [None, 16, None, 8]
    assert isinstance(config["intermediate_size"], int)
    assert (student / "modeling_nemotron_h_puzzle.py").exists()


@pytest.mark.parametrize("name", families.known())
def test_every_family_round_trips_and_claims_each_tensor_once(name):
    family = families.find(name)
    for architecture in (tiny("M-M*-M-"), tiny("*-"), tiny("M", groups=4)):
        config = family.config(architecture, {"vocab_size": 1, "something_else": "kept"})
        assert family.architecture(config) == architecture
        assert config["something_else"] == "kept"
        names = family.names(architecture)
        assert list(names) == [t.name for t in architecture.tensors()]
        accepted = [n for choices in names.values() for n in choices]
        assert len(accepted) == len(set(accepted))
