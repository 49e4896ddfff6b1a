"""generate and bench as people type them."""

import json
from functools import partial

import pytest
import torch
from bench_models import EVEN, EXAMPLES
from helpers import run
from transformers import AutoModelForCausalLM, AutoTokenizer

from minipuzzle import embedded
from minipuzzle.checkpoint.config import read_config
from minipuzzle.families import nemotron_h
from minipuzzle.generation.runtime import Runtime
from minipuzzle.memory.inference import largest_batch, weight_bytes
from minipuzzle.settings import Generation


def test_bench_compares_a_checkpoint_with_a_config(checkpoint, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((checkpoint / "config.json").read_text())
    words = (
        "bench",
        checkpoint,
        tmp_path / "bare",
        "--prompt",
        40,
        "--output",
        9,
        "--batch",
        3,
        "--device",
        "cpu",
    )
    run(*words)
    shown = capsys.readouterr().out
    assert "ckpt56b" in shown
    assert "1.00x" in shown
    run(*words, "--state", "bf16", "--json")
    result = json.loads(capsys.readouterr().out)
    first, second = result["rows"]
    assert first["parameters"] == second["parameters"] == read_config(checkpoint)[1].parameters
    for row in (first, second):
        assert (row["rows_read"], row["steps"], row["peak_bytes"]) == (3, 8, None)
        assert row["decode_tokens_per_s"] == pytest.approx(3 * 8 / row["decode_s"])
        assert row["tokens_per_s"] == pytest.approx(27 / (row["first_token_s"] + row["decode_s"]))
        assert row["predicted_bytes"] == sum(row["predicted"].values())
    assert (result["state_dtype"], result["dtype"]) == ("bfloat16", "float32")


def test_auto_takes_the_largest_and_seconds_cut_short(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("minipuzzle.runs.bench.available_bytes", lambda: 3_000_000)
    monkeypatch.setattr("minipuzzle.runs.bench.Runtime", partial(Runtime, tokens_at_once=64))
    run(
        "bench",
        checkpoint,
        "--prompt",
        90,
        "--output",
        40,
        "--batch",
        "auto",
        "--seconds",
        0,
        "--device",
        "cpu",
        "--json",
    )
    row = json.loads(capsys.readouterr().out)["rows"][0]
    runtime = Runtime(dtype=torch.float32, state_dtype=torch.float32, fast=False, tokens_at_once=64)
    made = read_config(checkpoint)[1]
    assert (
        row["batch"]
        == largest_batch(made, Generation(prompt=90, output=40, batch=1), runtime, 3_000_000)
        > 1
    )
    assert (row["rows_read"], row["steps"]) == (1, 16)
    run(
        "bench",
        checkpoint,
        "--prompt",
        90,
        "--output",
        40,
        "--batch",
        4,
        "--seconds",
        0,
        "--device",
        "cpu",
    )
    assert "1 of 4 rows were read and 16 of 39 steps taken" in capsys.readouterr().out


def test_plan_runs_nothing(capsys, monkeypatch):
    monkeypatch.setattr("minipuzzle.runs.bench.measure", None)
    run(
        "bench",
        EXAMPLES / "nemotron-h-8b",
        EXAMPLES / "llama-3.1-8b",
        "--prompt",
        65536,
        "--plan",
        "--json",
    )
    rows = json.loads(capsys.readouterr().out)
    assert [(r["name"], r["weights"]) for r in rows] == [
        ("nemotron-h-8b", "bf16"),
        ("nemotron-h-8b", "fp8"),
        ("llama-3.1-8b", "bf16"),
        ("llama-3.1-8b", "fp8"),
    ]
    kv = 2 * 2 * 8 * 128 * (65536 + 1024)
    assert [r["peak"]["kv"] for r in rows[1:3]] == [4 * kv, 32 * kv]
    run("bench", EXAMPLES / "nemotron-h-8b", "--plan")
    assert "141 GB" in capsys.readouterr().out


def test_bench_with_fp8_weights(tmp_path, capsys):
    (tmp_path / "even").mkdir()
    (tmp_path / "even" / "config.json").write_text(json.dumps(nemotron_h.config(EVEN, {})))
    words = (
        "bench",
        tmp_path / "even",
        "--prompt",
        20,
        "--output",
        3,
        "--device",
        "cpu",
        "--weights",
        "fp8",
    )
    run(*words, "--json")
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["predicted"]["weights"] == weight_bytes(EVEN, 4, fp8=True)
    run(*words)
    assert "float32, weights fp8" in capsys.readouterr().out


def refused(capsys, *words):
    run(*words, code=2)
    message = capsys.readouterr().err
    assert all(part in message for part in ("error:", "got:", "allowed:", "next:"))
    return message


def test_what_bench_and_generate_refuse(checkpoint, tmp_path, monkeypatch, capsys):
    assert "batch" in refused(capsys, "bench", checkpoint, "--batch", "many")
    assert "--weights" in refused(capsys, "bench", checkpoint, "--weights", "fp4")
    assert "multiplied in FP8" in refused(
        capsys, "bench", checkpoint, "--weights", "fp8", "--prompt", 8, "--device", "cpu"
    )
    assert "dtype" in refused(capsys, "bench", checkpoint, "--dtype", "fp4", "--prompt", 8)
    assert "count" in refused(capsys, "bench", checkpoint, "--prompt", "x")
    monkeypatch.setattr("minipuzzle.runs.bench.available_bytes", lambda: 1000)
    assert "does not fit" in refused(
        capsys, "bench", checkpoint, "--batch", "auto", "--device", "cpu"
    )
    assert "One prompt" in refused(capsys, "generate", checkpoint)
    assert "One prompt" in refused(capsys, "generate", checkpoint, "It", "was")
    assert "no student" in refused(capsys, "generate", "It was", "--run", tmp_path / "run")
    assert "top-p" in refused(capsys, "generate", checkpoint, "It was", "--top-p", 2)
    assert "at least 1" in refused(capsys, "generate", checkpoint, "It was", "--tokens", 0)
    assert "no safetensors weights" in refused(
        capsys, "generate", EXAMPLES / "nemotron-h-8b", "It was"
    )


def test_generate_says_what_transformers_says(tmp_path, capsys):
    """The embedded teacher and the student of a run: text and all, in transformers and here."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "student").symlink_to(embedded.teacher_path())
    prompt = "Fellow citizens of the Senate"
    run("generate", prompt, "--run", tmp_path / "run", "--tokens", 24, "--device", "cpu")
    said = capsys.readouterr()
    assert "24 generated" in said.err
    theirs = AutoModelForCausalLM.from_pretrained(
        embedded.teacher_path(), dtype=torch.float32
    ).eval()
    for layer in theirs.model.layers:
        if hasattr(layer.mixer, "time_step_limit"):
            layer.mixer.time_step_limit = (0.0, float("inf"))
    words = AutoTokenizer.from_pretrained(embedded.teacher_path())
    tokens = theirs.generate(
        **words(prompt, return_tensors="pt"), max_new_tokens=24, do_sample=False, pad_token_id=1
    )
    assert said.out == words.decode(tokens[0]) + "\n"
    run(
        "generate",
        embedded.teacher_path(),
        prompt,
        "--tokens",
        9,
        "--temperature",
        0.9,
        "--seed",
        4,
        "--device",
        "cpu",
    )
    first = capsys.readouterr().out
    run(
        "generate",
        embedded.teacher_path(),
        prompt,
        "--tokens",
        9,
        "--temperature",
        0.9,
        "--seed",
        4,
        "--device",
        "cpu",
    )
    assert capsys.readouterr().out == first


def test_text_waits_for_whole_characters():
    from minipuzzle.data import Tokenizer
    from minipuzzle.runs.generate import Text

    words = Tokenizer.load(embedded.teacher_path())
    whole = "Prices: 12 \u20ac\nand \u00fcber \U0001f600 all."
    text, pieces = Text(words), []
    for token in words.encode(whole, special_tokens=False):
        pieces.append(text.add(token))
    assert "".join(pieces) + text.rest() == whole
    assert "" in pieces
    assert not any("\ufffd" in piece for piece in pieces)
