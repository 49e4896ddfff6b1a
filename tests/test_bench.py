"""generate and bench as people type them; predicted memory against what a run allocates."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import TEXT, run
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from minipuzzle import embedded
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.config import read_config
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.families import nemotron_h
from minipuzzle.generation.bench import measure
from minipuzzle.generation.runtime import Runtime
from minipuzzle.kinds import Attention, FeedForward, Rope
from minipuzzle.memory.inference import HEADROOM, inference_peak, largest_batch, weight_bytes
from minipuzzle.metrics import measure as loss_of
from minipuzzle.model import HybridLM, fp8_model, load_model, set_precision
from minipuzzle.model.footprint import _Live
from minipuzzle.settings import Generation

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
SLOW = Runtime(dtype=torch.float32, state_dtype=torch.float32, fast=False, tokens_at_once=32)


def llama(hidden=64):
    layer = (
        Attention(hidden=hidden, q_heads=4, kv_heads=2, attn_head_dim=16, rope=Rope(dim=16)),
        FeedForward(hidden=hidden, intermediate=256, gated=True, activation="silu"),
    )
    return Architecture(vocab_size=61, hidden=hidden, blocks=layer * 2)


@pytest.mark.parametrize(("batch", "prompt"), [(1, 80), (3, 70), (20, 32)])
@pytest.mark.parametrize(
    "made", [tiny("M-M*-", hidden=64, intermediate=256, vocab=61), llama()], ids=["hybrid", "llama"]
)
def test_predicted_memory_is_what_a_run_allocates(made, batch, prompt):
    work = Generation(batch=batch, prompt=prompt, output=3)
    model = HybridLM(made).eval()
    with _Live(list(model.parameters())) as live:
        measure(model, work, state_dtype=torch.float32, tokens_at_once=32)
    counted = (
        live.peak - 8 * batch * prompt + sum(p.nbytes for p in model.parameters())
    )  # less the prompts
    assert inference_peak(made, work, SLOW).total == pytest.approx(counted, rel=0.03)


def test_the_largest_batch_is_the_largest():
    made, work = tiny(vocab=61), Generation(prompt=100, output=10, batch=1)
    for available in (10**5, 10**6, 10**7):
        found = largest_batch(made, work, SLOW, available)
        totals = [
            inference_peak(made, Generation(prompt=100, output=10, batch=b), SLOW).total
            for b in (max(found, 1), found + 1)
        ]
        assert totals[1] > available * (1 - HEADROOM)
        assert found == 0 or totals[0] <= available * (1 - HEADROOM)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen2.5-7b", "nemotron-h-8b"])
def test_parameters_and_weights_of_the_compared_models(name):
    made = read_config(EXAMPLES / name)[1]
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(EXAMPLES / name))
    assert made.parameters == sum(p.numel() for p in theirs.parameters())
    assert made.parameters in (8_030_261_248, 7_615_616_512, 8_100_852_736)
    halved = weight_bytes(made, 2, fp8=True) - weight_bytes(made, 2, fp8=False)
    matrices = sum(p.numel() for n, p in theirs.named_parameters() if p.ndim == 2 and "layers" in n)
    assert halved == -matrices + 4 * sum(
        p.ndim == 2 and "layers" in n for n, p in theirs.named_parameters()
    )


EVEN = tiny("M-M*-M-", heads=16, head_dim=4, vocab=61)


@torch.no_grad()
def test_stored_fp8_is_the_emulation_of_training(tmp_path):
    """tests/test_fp8.py holds that emulation against torchao's, bit by bit."""
    model = shaken(EVEN)
    checkpoint = Checkpoint.open(save(model, tmp_path / "even", tokenizer=False))
    stored = fp8_model(
        EVEN, checkpoint, device=torch.device("cpu"), dtype=torch.float32, kernels=model.kernels
    )
    tokens = torch.randint(0, 61, (2, 40), generator=torch.Generator().manual_seed(0))
    plain = model(tokens)
    assert len(set_precision(model, "fp8-emulated", 0)) == 16
    assert torch.equal(stored(tokens), model(tokens))
    assert not torch.equal(stored(tokens), plain)
    held = sum(t.nbytes for t in [*stored.parameters(), *stored.buffers()])
    assert held == weight_bytes(EVEN, 4, fp8=True)
    assert {t.dtype for t in stored.buffers() if t.ndim == 2} == {torch.float8_e4m3fn}


def test_stored_fp8_loses_little_of_the_embedded_teacher():
    parent = Checkpoint.open(embedded.teacher_path())
    blocks = load_blocks(TEXT, Tokenizer.load(parent.path), block_length=128).every_other(0)
    plain, where = (
        load_model(parent).eval(),
        {"device": torch.device("cpu"), "dtype": torch.float32},
    )
    stored = fp8_model(parent.architecture, parent, kernels=plain.kernels, **where)
    losses = [loss_of(model, blocks).loss for model in (plain, stored)]
    assert losses[0] != losses[1]
    assert abs(losses[1] / losses[0] - 1) < 0.01


def test_random_weights_are_made_in_their_dtype():
    model = HybridLM(tiny(vocab=61), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


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
