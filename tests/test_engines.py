"""Which engines load a checkpoint: derived from its shapes, with reasons."""

import json
from dataclasses import replace

import pytest
from conftest import save, shaken, tiny
from family_models import FORMS
from helpers import run

from minipuzzle import families
from minipuzzle.embedded import teacher_path
from minipuzzle.export.verdicts import verdicts
from minipuzzle.families import nemotron_h
from minipuzzle.kinds import FeedForward

PLAIN = tiny("M-M*-M*-")
BIASED = replace(
    PLAIN,
    blocks=tuple(replace(b, bias=True) if isinstance(b, FeedForward) else b for b in PLAIN.blocks),
)
ENGINES = ("transformers", "vLLM", "SGLang", "TensorRT-LLM", "llama.cpp", "mlx")
YES = ("yes",) * 5


def changed(kind, **sizes):
    """The plain architecture with the first block of a kind changed."""
    first = PLAIN.indices(kind)[0]
    blocks = [replace(b, **sizes) if i == first else b for i, b in enumerate(PLAIN.blocks)]
    return replace(PLAIN, blocks=tuple(blocks))


CASES = {
    "homogeneous": (PLAIN, ("yes",) * 6, "as it is"),
    "FFN widths": (changed("mlp", intermediate=48), (*YES, "no"), "trust_remote_code=True"),
    "attention heads": (
        changed("attention", q_heads=2, kv_heads=1),
        ("yes", "unproven", "unproven", "no", "yes", "no"),
        "kv_heads, q_heads",
    ),
    "Mamba heads": (
        changed("mamba", heads=4),
        ("yes", "no", "no", "no", "no", "no"),
        "heads [4, 8]",
    ),
    "FFN bias": (BIASED, ("yes", "yes", "yes", "no", "yes", "yes"), "have no bias"),
}


@pytest.mark.parametrize("name", CASES)
def test_verdicts(name, tmp_path, capsys):
    architecture, expected, says = CASES[name]
    path = save(shaken(architecture), tmp_path / "model")
    (path / "model.safetensors").unlink()  # a config.json and the tokenizer are enough
    capsys.readouterr()
    run("export", path, "--json")
    rows = json.loads(capsys.readouterr().out)["engines"]
    assert [r["engine"] for r in rows] == list(ENGINES)
    assert tuple(r["loads"] for r in rows) == expected
    assert says in " ".join(r["how"] for r in rows)
    assert all(r["source"].startswith(("ran: ", "read: ")) for r in rows)
    run("export", path)
    shown = capsys.readouterr().out
    assert all(engine in shown for engine in ENGINES)


def test_the_embedded_teacher_has_a_name(capsys):
    run("export", "embedded", "--json")
    rows = json.loads(capsys.readouterr().out)["engines"]
    assert rows[1]["command"] == f"vllm serve {teacher_path()}"


def test_mamba_2_with_groups_names_the_version_whose_norm_is_right(tmp_path, capsys):
    for groups, says in ((1, "as it is"), (2, "5.23 or later")):
        fields = {"model_type": "mamba2", **FORMS["mamba2"]["plain"], "n_groups": groups}
        (tmp_path / "config.json").write_text(json.dumps(fields))
        run("export", tmp_path, "--json")
        first = json.loads(capsys.readouterr().out)["engines"][0]
        assert (first["engine"], first["loads"]) == ("transformers", "yes")
        assert first["how"].startswith(says)


def test_a_tokenizer_that_llama_cpp_cannot_follow_is_its_reason(checkpoint, capsys):
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    run("export", checkpoint, "--json")
    rows = json.loads(capsys.readouterr().out)["engines"]
    (row,) = [row for row in rows if row["engine"] == "llama.cpp"]
    assert (row["loads"], "Whitespace" in row["how"]) == ("no", True)


def test_per_block_widths_are_also_written_as_the_lists_that_engines_read():
    extra = nemotron_h.extra_files(changed("mlp", intermediate=48))
    sglang, tensorrt = (
        json.loads(extra[f"overrides.{name}.json"]) for name in ("sglang", "tensorrt_llm")
    )
    assert sglang["intermediate_size"] == [48, 64, 64]  # one entry for each "-" of M-M*-M*-
    assert (sglang["model_type"], sglang["block_configs"]) == ("nemotron_h", None)
    assert tensorrt["intermediate_size"] == [0, 48, 0, 0, 64, 0, 0, 64]
    assert not any(
        "overrides" in name for name in nemotron_h.extra_files(changed("mamba", heads=4))
    )


@pytest.mark.parametrize(
    ("family", "form", "loads"),
    [
        ("qwen3", "plain", "yes"),
        ("qwen3", "bias", "no"),
        ("llama", "llama3, tied", "yes"),
        ("llama", "yarn", "unproven"),
        ("granitemoehybrid", "multipliers", "no"),  # two groups of heads
        ("smollm3", "own list", "unproven"),  # biases
        ("bamba", "plain", "no"),
    ],
)
def test_what_mlx_says_of_families_without_experts(family, form, loads, tmp_path, capsys):
    fields = {"model_type": family, **FORMS[family][form]}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    run("export", tmp_path, "--json")
    row = json.loads(capsys.readouterr().out)["engines"][-1]
    assert (row["engine"], row["loads"]) == ("mlx", loads)


WANTED = {
    "mamba2": ("n_groups", ("intermediate_size", "time_step_limit", "time_step_rank")),
    "granitemoehybrid": ("mamba_n_groups", (", intermediate_size", "position_embedding_type")),
    "qwen3_next": (None, ("partial_rotary_factor", "full_attention_interval 2")),
}


@pytest.mark.parametrize("family", WANTED)
def test_mlx_finds_its_fields_in_what_we_write(family, tmp_path):
    groups, wanted = WANTED[family]
    fields = {"model_type": family, **next(iter(FORMS[family].values()))}
    fields |= {groups: 1, "shared_intermediate_size": 40} if groups else {}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(fields))
    before = verdicts(tmp_path)[-1]
    assert before.loads == "yes"
    assert all(name in before.how for name in wanted)
    found = families.find(family)
    file.write_text(json.dumps(found.config(found.architecture(fields), fields)))
    assert verdicts(tmp_path)[-1].how == "as it is"
