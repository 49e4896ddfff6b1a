"""Predicted memory of a generation against what a run allocates; weights stored in FP8."""

import pytest
import torch
from bench_models import EVEN, EXAMPLES
from conftest import save, shaken, tiny
from helpers import TEXT
from transformers import AutoConfig, AutoModelForCausalLM

from minipuzzle import embedded
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.config import read_config
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.generation.bench import measure
from minipuzzle.generation.runtime import Runtime
from minipuzzle.kinds import Attention, FeedForward, Rope
from minipuzzle.memory.inference import HEADROOM, inference_peak, largest_batch, weight_bytes
from minipuzzle.metrics import measure as loss_of
from minipuzzle.model import HybridLM, fp8_model, load_model, set_precision
from minipuzzle.model.footprint import _Live
from minipuzzle.settings import Generation

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
