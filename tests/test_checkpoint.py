"""Checkpoints: names, shards, configs and files that other engines look for."""

import errno
import json
import os
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch
from conftest import save, shaken, tiny
from safetensors.torch import load_file, save_file
from test_model import theirs_of, unclamped
from transformers import AutoModelForCausalLM

from minipuzzle import embedded, families
from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint, read_config, write_checkpoint
from minipuzzle.checkpoint.header import read_header
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


@pytest.fixture
def remote_code(tmp_path, monkeypatch):
    """transformers keeps the classes that a checkpoint carries here, and forgets them
    afterwards.
    """
    import transformers.dynamic_module_utils as remote

    monkeypatch.setattr(remote, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    for name in [n for n in sys.modules if n.split(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path / "modules"
    for name in [n for n in sys.modules if n.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]


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


def change_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def change_weights(folder, change):
    values = load_file(folder / "model.safetensors")
    change(values)
    save_file(values, folder / "model.safetensors")


def header(folder, change):
    """Rewrite the header of a file and leave its data alone."""
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    said = json.loads(data[8 : 8 + length])
    said = change(said) or said
    text = json.dumps(said).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def index(folder, text):
    (folder / "model.safetensors").rename(folder / "whole.safetensors")
    (folder / "model.safetensors.index.json").write_text(text)


NORM = "backbone.norm_f.weight"
FAULTS = {
    "wrong shape": (
        lambda f: change_weights(f, lambda t: t.update({NORM: torch.ones(7)})),
        ["wrong shape", "(7,)", "(32,)"],
    ),
    "missing tensor": (
        lambda f: change_weights(f, lambda t: t.pop("backbone.layers.0.mixer.D")),
        ["backbone.layers.0.mixer.D", "missing"],
    ),
    "under two names": (
        lambda f: change_weights(f, lambda t: t.update({"model.norm_f.weight": t[NORM].clone()})),
        ["twice", NORM],
    ),
    "unexpected tensor": (
        lambda f: change_weights(f, lambda t: t.update({"backbone.extra": torch.ones(1)})),
        ["backbone.extra"],
    ),
    "truncated": (
        lambda f: os.truncate(f / "model.safetensors", 9000),
        ["model.safetensors", "truncated"],
    ),
    "empty file": (lambda f: os.truncate(f / "model.safetensors", 0), ["truncated"]),
    "header of a list": (lambda f: header(f, lambda h: [1]), ["damaged", "list"]),
    "entry without offsets": (
        lambda f: header(f, lambda h: h[NORM].pop("data_offsets") and None),
        ["damaged", NORM],
    ),
    "offsets that do not fit the shape": (
        lambda f: header(f, lambda h: h[NORM].update(shape=[31])),
        ["damaged", NORM],
    ),
    "negative offsets": (
        lambda f: header(f, lambda h: h[NORM].update(data_offsets=[-128, 0])),
        ["damaged", NORM],
    ),
    "offsets outside of the file": (
        lambda f: header(f, lambda h: h[NORM].update(data_offsets=[10**9, 10**9 + 128])),
        ["truncated", "ends at"],
    ),
    "unknown dtype": (
        lambda f: header(f, lambda h: h[NORM].update(dtype="F4")),
        [NORM, "F4", "BF16"],
    ),
    "pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        ["pytorch_model.bin", "never read"],
    ),
    "no config": (lambda f: (f / "config.json").unlink(), ["no checkpoint here"]),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), ["not valid JSON"]),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ["config.json", "a list"]),
    "unknown model_type": (
        lambda f: change_config(f, model_type="nemotron_x"),
        ["nemotron_x", "nemotron_h"],
    ),
    "unknown letter": (
        lambda f: change_config(f, hybrid_override_pattern="M-M*XM-"),
        ["'X'", "position 4"],
    ),
    "pattern of another length": (
        lambda f: change_config(f, hybrid_override_pattern="M-M*"),
        ["4 letters", "7"],
    ),
    "index is no JSON": (lambda f: index(f, "{"), ["index.json", "not valid JSON"]),
    "index without a map": (lambda f: index(f, "{}"), ["index.json", "weight_map"]),
    "index to another folder": (
        lambda f: index(f, '{"weight_map": {"a": "../x.safetensors"}}'),
        ["outside", "../x.safetensors"],
    ),
    "missing shard": (
        lambda f: index(f, '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'),
        ["model-00001-of-00002.safetensors", "missing"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refused_checkpoints(fault, tmp_path):
    save(shaken(tiny(vocab=61)), tmp_path / "ckpt")
    Checkpoint.open(tmp_path / "ckpt")
    change, says = FAULTS[fault]
    change(tmp_path / "ckpt")
    with pytest.raises(UserError) as caught:
        Checkpoint.open(tmp_path / "ckpt")
    for words in says:
        assert words in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_when_read(tmp_path, dtype, value):
    save(shaken(tiny(vocab=61)), tmp_path)
    change_weights(
        tmp_path, lambda t: t.update({NORM: torch.tensor([value, value, *[1.0] * 30], dtype=dtype)})
    )
    checkpoint = Checkpoint.open(tmp_path)
    checkpoint.tensor("embeddings.weight")
    with pytest.raises(UserError) as caught:
        checkpoint.tensor("final_norm.weight")
    assert NORM in str(caught.value)
    assert "2 of 32" in str(caught.value)


def test_large_float64_weights_are_finite(tmp_path):
    save(shaken(tiny(vocab=61)), tmp_path)
    change_weights(
        tmp_path, lambda t: t.update({NORM: torch.full((32,), 1e300, dtype=torch.float64)})
    )
    assert (Checkpoint.open(tmp_path).tensor("final_norm.weight") == 1e300).all()


def test_our_header_reader_agrees_with_safetensors(tmp_path):
    values = {
        "a": torch.ones(2, 3),
        "b": torch.zeros(0, 4).bfloat16(),
        "c": torch.tensor(7),
        "d": torch.ones(5).half(),
    }
    save_file(values, tmp_path / "x.safetensors", metadata={"format": "pt"})
    entries = read_header(tmp_path / "x.safetensors")
    assert {n: e.shape for n, e in entries.items()} == {
        n: tuple(v.shape) for n, v in values.items()
    }
    assert all(entries[n].nbytes == v.numel() * v.element_size() for n, v in values.items())
    data = (tmp_path / "x.safetensors").read_bytes()
    assert data[entries["a"].start :][: entries["a"].nbytes] == values["a"].numpy().tobytes()


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "where", ["os.fsync", "shutil.copyfile", "pathlib.Path.write_text", "pathlib.Path.rename"]
)
@pytest.mark.parametrize("before", ["nothing", "a checkpoint"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, where, before):
    save(shaken(tiny(vocab=61)), tmp_path / "source")
    source = Checkpoint.open(tmp_path / "source")
    (tmp_path / "out").mkdir()
    if before == "a checkpoint":
        save(shaken(tiny(vocab=61), seed=9), tmp_path / "out" / "student")
    content = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(UserError, match="Could not write") as caught:
            write_checkpoint(
                tmp_path / "out" / "student",
                source.architecture,
                source.tensor,
                source=source,
                config=source.config,
            )
    assert "No space left" in caught.value.got
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == content
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == (
        [] if before == "nothing" else ["student"]
    )


def test_a_checkpoint_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    source = Checkpoint.open(save(shaken(tiny(vocab=61)), tmp_path / "source"))
    save(shaken(tiny(vocab=61), seed=9), tmp_path / "student")
    old = Checkpoint.open(tmp_path / "student").fingerprint
    rename = Path.rename
    monkeypatch.setattr(
        Path,
        "rename",
        lambda self, to: full() if self.name.endswith(".writing") else rename(self, to),
    )
    with pytest.raises(UserError, match="Could not write"):
        write_checkpoint(
            tmp_path / "student",
            source.architecture,
            source.tensor,
            source=source,
            config=source.config,
        )
    assert Checkpoint.open(tmp_path / "student").fingerprint == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "student"]


def test_a_checkpoint_is_replaced_as_a_whole_and_nothing_else_ever_is(tmp_path):
    source = Checkpoint.open(save(shaken(tiny(vocab=61)), tmp_path / "source"))

    def write(name):
        write_checkpoint(
            tmp_path / name, source.architecture, source.tensor, source=source, config=source.config
        )

    save(shaken(tiny("M-", vocab=61)), tmp_path / "student")
    (tmp_path / "student" / "stale.txt").write_text("of the old one")
    (tmp_path / "empty").mkdir()
    for name in ("student", "empty", "new"):
        write(name)
        assert Checkpoint.open(tmp_path / name).fingerprint == source.fingerprint
        assert not (tmp_path / name / "stale.txt").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("notes")
    for name in ("thesis", "file"):
        with pytest.raises(UserError, match="not a checkpoint, so it is not replaced"):
            write(name)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "notes"
    (tmp_path / "link").symlink_to(tmp_path / "student")
    shutil.rmtree(tmp_path / "empty")
    write("link")
    assert (tmp_path / "link").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "file",
        "link",
        "new",
        "source",
        "student",
        "thesis",
    ]


def test_writing_onto_the_source_itself(tmp_path):
    source = Checkpoint.open(save(shaken(tiny(vocab=61)), tmp_path / "ckpt"))
    (tmp_path / "ckpt" / "tokenizer_files").mkdir()
    before = source.fingerprint
    write_checkpoint(
        tmp_path / "ckpt", source.architecture, source.tensor, source=source, config=source.config
    )
    again = Checkpoint.open(tmp_path / "ckpt")
    assert (again.fingerprint, again.has_tokenizer) == (before, True)


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
