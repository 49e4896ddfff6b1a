"""Checkpoints: names, shards, configs and files that other engines look for."""

import json

import pytest
import torch
from checkpoint_files import change_config
from conftest import save, shaken, tiny
from safetensors.torch import load_file, save_file
from test_model import theirs_of, unclamped
from transformers import AutoModelForCausalLM

from minipuzzle import embedded, families
from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint, read_config, write_checkpoint
from minipuzzle.errors import UserError
from minipuzzle.kinds import Attention, FeedForward, Mamba2
from minipuzzle.surgery import cut


def tensors(folder):
    return {
        name: value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 20_000])
def test_load_and_save_is_bit_exact(tmp_path, shard_bytes):
    theirs = theirs_of({})
    theirs.save_pretrained(tmp_path / "theirs")
    first = Checkpoint.open(tmp_path / "theirs")
    config = first.family.config(first.architecture, first.config)
    write_checkpoint(
        tmp_path / "ours",
        first.architecture,
        first.tensor,
        source=first,
        config=config,
        shard_bytes=shard_bytes,
    )
    before, after = tensors(tmp_path / "theirs"), tensors(tmp_path / "ours")
    assert before.keys() == after.keys()
    assert all(
        torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before
    )
    again = Checkpoint.open(tmp_path / "ours")
    assert (again.architecture, again.parameters, again.bytes) == (
        first.architecture,
        first.parameters,
        first.bytes,
    )
    index = tmp_path / "ours" / "model.safetensors.index.json"
    assert index.exists() == (shard_bytes < 100_000)
    if index.exists():
        assert json.loads(index.read_text())["metadata"]["total_size"] == again.bytes
    loaded = unclamped(AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval())
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(
            loaded(tokens, use_cache=False).logits, theirs(tokens, use_cache=False).logits
        )


def test_the_written_config_has_what_each_engine_reads():
    config = json.loads((embedded.teacher_path() / "config.json").read_text())
    assert config["hybrid_override_pattern"] == "M-M-M*-M-M-M*-"  # SGLang, llama.cpp's converter
    assert not {"layers_block_type", "layer_types"} & set(
        config
    )  # whose names no spelling suits all (families/nemotron_h.py)
    assert config["n_groups"] == config["mamba_n_groups"] == 2  # SGLang reads both
    assert config["num_hidden_layers"] == 14
    assert "time_step_limit" not in config


def test_native_names_and_a_singular_embedding_are_read(tmp_path):
    """transformers holds ``model.*`` in memory; 5.14 wrote ``backbone.embedding.weight``."""
    save(shaken(tiny()), tmp_path)
    file = tmp_path / "model.safetensors"
    values = load_file(file)
    want = Checkpoint.open(tmp_path).tensor("embeddings.weight")
    renamed = {
        n.replace("backbone.embeddings", "model.embedding").replace("backbone.", "model."): v
        for n, v in values.items()
    }
    save_file(renamed, file)
    assert torch.equal(Checkpoint.open(tmp_path).tensor("embeddings.weight"), want)
    assert Checkpoint.open(tmp_path).notes == ()
    save_file({**renamed, "mtp.layers.0.weight": torch.ones(1)}, file)
    (note,) = Checkpoint.open(tmp_path).notes
    assert "1 tensors of multi-token prediction" in note


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
    selection = Selection(
        blocks=({}, {"intermediate": tuple(range(16))}, {}, {"intermediate": tuple(range(8))})
    )
    cut(parent, selection, tmp_path / "student")
    student = tmp_path / "student"
    assert json.loads((student / "generation_config.json").read_text()) == {"eos_token_id": 7}
    assert (student / "tokenizer.json").read_bytes() == (
        tmp_path / "parent" / "tokenizer.json"
    ).read_bytes()
    config = json.loads((student / "config.json").read_text())
    assert config["model_type"] == "nemotron_h_puzzle"
    assert [b.get("intermediate_size") for b in config["block_configs"]] == [None, 16, None, 8]
    assert isinstance(config["intermediate_size"], int)
    assert (student / "modeling_nemotron_h_puzzle.py").exists()


MIXED = (
    Mamba2(hidden=24, heads=6, head_dim=4, groups=3, state=5, chunk_size=8),
    FeedForward(hidden=24, intermediate=7),
    Mamba2(hidden=24, heads=2, head_dim=10, groups=1, state=16, conv_kernel=3, chunk_size=4),
    Attention(hidden=24, q_heads=3, kv_heads=1, attn_head_dim=6),
    FeedForward(hidden=24, intermediate=40),
    Attention(hidden=24, q_heads=4, kv_heads=2, attn_head_dim=8),
    Mamba2(hidden=24, heads=3, head_dim=4, groups=3, state=5),
)


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 10_000])
def test_blocks_that_differ_load_in_transformers_through_the_classes_beside_them(
    tmp_path, remote_code, shard_bytes
):
    ours = shaken(Architecture(vocab_size=61, hidden=24, blocks=MIXED))
    values, family = ours.state_dict(), families.find("nemotron_h_puzzle")
    config, extra = (
        family.config(ours.architecture, {"dtype": "float32"}),
        family.extra_files(ours.architecture),
    )
    write_checkpoint(
        tmp_path / "mixed",
        ours.architecture,
        values.__getitem__,
        source=None,
        config=config,
        extra=extra,
        shard_bytes=shard_bytes,
    )
    assert Checkpoint.open(tmp_path / "mixed").architecture == ours.architecture
    options = {"trust_remote_code": True, "output_loading_info": True}
    theirs, said = AutoModelForCausalLM.from_pretrained(tmp_path / "mixed", **options)
    assert not any(said.values())
    assert list(remote_code.rglob("modeling_nemotron_h_puzzle.py"))
    loaded = theirs.state_dict()
    names = family.names(ours.architecture)
    assert {accepted[0] for accepted in names.values()} == set(loaded)
    assert all(torch.equal(loaded[accepted[0]], values[name]) for name, accepted in names.items())
    theirs = unclamped(theirs.eval())
    tokens = torch.arange(11)[None]
    with torch.no_grad():
        assert (theirs(tokens, use_cache=False).logits - ours(tokens)).abs().max() <= 1e-4
        if shard_bytes > 10_000:
            options = {
                "max_new_tokens": 3,
                "do_sample": False,
                "eos_token_id": None,
                "pad_token_id": 0,
            }
            assert torch.equal(
                theirs.generate(tokens, **options),
                theirs.generate(tokens, use_cache=False, **options),
            )


def test_dtypes_stay_and_the_config_means_the_same(tmp_path):
    """BF16 weights with FP32 A_log, as on the hub: neither is converted, neither is lost."""
    theirs = theirs_of({"mlp_bias": True, "use_bias": True}).bfloat16()
    theirs.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    mixed = {n: v.float() if n.endswith("A_log") else v for n, v in load_file(file).items()}
    save_file(mixed, file, metadata={"format": "pt"})
    first = Checkpoint.open(tmp_path / "theirs")
    assert first.dtype == "BF16"
    assert first.parameters == sum(p.numel() for p in theirs.parameters())
    config = first.family.config(first.architecture, first.config)
    write_checkpoint(
        tmp_path / "ours", first.architecture, first.tensor, source=first, config=config
    )
    after = tensors(tmp_path / "ours")
    assert after.keys() == mixed.keys()
    assert all(torch.equal(mixed[n], after[n]) and mixed[n].dtype == after[n].dtype for n in mixed)
    read, written = (
        theirs.config.to_dict(),
        AutoModelForCausalLM.from_pretrained(tmp_path / "ours").config.to_dict(),
    )
    changed = {k for k in read.keys() | written.keys() if read.get(k) != written.get(k)}
    assert changed <= {
        "_name_or_path",
        "transformers_version",
        "mamba_n_groups",
    }  # SGLang wants the last


def test_the_fingerprint_follows_weights_and_config(tmp_path):
    save(shaken(tiny(vocab=61)), tmp_path / "a")
    save(shaken(tiny(vocab=61)), tmp_path / "b")
    save(shaken(tiny(vocab=61), seed=5), tmp_path / "c")
    a, b, c = (Checkpoint.open(tmp_path / name).fingerprint for name in "abc")
    assert len(a) == 16
    assert a == b != c
    change_config(tmp_path / "b", bos_token_id=9)
    assert Checkpoint.open(tmp_path / "b").fingerprint != a


def test_a_config_alone_is_enough_for_read_config(tmp_path):
    arch = tiny()
    (tmp_path / "config.json").write_text(json.dumps(families.find("nemotron_h").config(arch, {})))
    assert read_config(tmp_path)[1] == arch
    with pytest.raises(UserError, match="no safetensors weights"):
        Checkpoint.open(tmp_path)


def test_predicted_tokens_are_not_promised_where_their_heads_are_not_written(tmp_path):
    save(shaken(tiny(vocab=61)), tmp_path)
    change_config(tmp_path, num_nextn_predict_layers=2)
    checkpoint = Checkpoint.open(tmp_path)
    assert (
        checkpoint.family.config(checkpoint.architecture, checkpoint.config)[
            "num_nextn_predict_layers"
        ]
        == 0
    )
