"""What a training step costs, by pencil."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import shaken, tiny

from minipuzzle.arch import Architecture
from minipuzzle.cost.flops import flops_per_token
from minipuzzle.cost.training import peak_flops, training_flops
from minipuzzle.kernels import choose
from minipuzzle.kinds import Attention, Experts, FeedForward, Mamba2
from minipuzzle.memory.training import LOADED, RESERVE, saved_bytes, training_peak
from minipuzzle.model.base import Context, make_block
from minipuzzle.model.footprint import _Live
from minipuzzle.runs.meter import Meter
from minipuzzle.settings import Training
from minipuzzle.training.prepare import prepare


def test_flops():
    ff = FeedForward(hidden=8, intermediate=16)
    student = Architecture(vocab_size=10, hidden=8, blocks=(ff,))
    teacher = Architecture(vocab_size=10, hidden=8, blocks=(ff, ff))
    assert training_flops(student, 64) == 3 * (2 * 2 * 8 * 16 + 2 * 10 * 8)
    assert (
        training_flops(student, 64, teacher) - training_flops(student, 64)
        == 4 * 2 * 8 * 16 + 2 * 10 * 8
    )
    assert training_flops(student, 64, frozen=True) == 2 * (2 * 2 * 8 * 16 + 2 * 10 * 8)
    hybrid = tiny()
    assert training_flops(hybrid, 63) == 3 * flops_per_token(hybrid, 32).total


def test_peak():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA GeForce RTX 5090") == 209e12
    assert peak_flops("Intel Xeon") is None


def beyond(student, **options):
    """What a step of 1,000 tokens takes beside what lies there before it."""
    return training_peak(student, 1000, **options).without((*LOADED, RESERVE)).total


def test_bytes():
    ff, attention = (
        FeedForward(hidden=8, intermediate=16),
        Attention(hidden=8, q_heads=4, kv_heads=2, attn_head_dim=2),
    )
    mamba = Mamba2(hidden=8, heads=4, head_dim=4, groups=2, state=8)
    assert saved_bytes(ff) == 2 * (8 + 8 + 16 + 16)
    assert saved_bytes(attention) == 2 * (8 + 8 + 8 + 4 + 4 + 8) + 4 * 4
    normed = replace(attention, qk_norm=True)
    assert saved_bytes(normed) == saved_bytes(attention) + 2 * (8 + 4)
    gated = replace(attention, output_gate=True)
    assert saved_bytes(gated) == saved_bytes(attention) + 2 * (8 + 8)
    assert saved_bytes(replace(ff, norm_after=True)) == saved_bytes(ff)
    assert saved_bytes(mamba) == 2 * (8 + 8 + (16 + 48 + 4) + 16 + 16)
    bare = Architecture(vocab_size=10, hidden=8, blocks=())  # 6 bytes a value around the final norm
    assert beyond(bare) == bare.parameters * 14 + 1000 * 8 * 6 + 3 * 2**29
    model = Architecture(vocab_size=10, hidden=8, blocks=(ff, mamba) * 10)
    whole, less = (beyond(model, checkpointing=c) for c in (False, True))
    assert whole - less == 1000 * (
        10 * (saved_bytes(ff) + saved_bytes(mamba)) - 20 * 16 - saved_bytes(mamba)
    )
    # over two GPUs gradients and moments are halves; what is gathered takes the place of the copies
    head, block = 80, mamba.parameters
    gathered = 2 * head + 4 * block + 6 * block
    assert whole - beyond(model, gpus=2) == model.parameters * (14 - 6) - gathered
    assert whole - beyond(model, trained=100) == (model.parameters - 100) * 14
    frozen = 2 * head + 4 * block + 2 * 100
    assert beyond(model, trained=100, gpus=2) - beyond(model, trained=100) == frozen - 2 * 100


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"shared_width": 0, "expert_width": 128},
        {"latent": 32, "top_k": 1},
        {"gated": True, "activation": "silu", "router": "softmax", "shared_gate": True},
    ],
    ids=str,
)
def test_experts_keep_what_is_foretold(form):
    """Of what the mixer makes of BF16 tokens, tensors that live on after it."""
    sizes = {"hidden": 64, "experts": 8, "top_k": 3, "expert_width": 32, "shared_width": 48}
    block, tokens = Experts(**sizes | form), 256
    with torch.device("meta"):
        module = make_block(block, 1e-5, choose(torch.device("cpu"))).bfloat16()
    module.router.weight.requires_grad_(False)
    x = torch.empty(1, tokens, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    with _Live([x, *module.parameters(), *module.buffers()]) as live:
        out = module.mixer(x, Context())
    held = sum(size for storage, size in live.held.values() if not storage.expired())
    kept = (held - out.untyped_storage().nbytes()) / tokens
    stream_and_input = 2 * 2 * 64
    assert saved_bytes(block) - stream_and_input == pytest.approx(kept, rel=0.05)


def test_what_is_loaded_before_the_first_step():
    model, teacher = tiny(), tiny("M-M*-M-")
    loaded = {
        name: size
        for name, size in training_peak(model, 64, teacher=teacher, gpus=2).terms.items()
        if name in LOADED
    }
    assert sum(loaded.values()) == teacher.parameters + 2 * model.parameters
    terms = training_peak(model, 64, trained=100, gpus=2).terms
    assert sum(terms[name] for name in LOADED if name in terms) == model.parameters + 4 * 100


def test_meter(monkeypatch):
    now = iter((0.0, 2.0, 4.0))
    monkeypatch.setattr("minipuzzle.runs.meter.time.monotonic", lambda: next(now))
    architecture = tiny()
    shown = []
    bar = SimpleNamespace(show=lambda *said: shown.append(said))
    meter = Meter(bar, 4000, architecture, 63, torch.device("cpu"))
    meter.peak = 1000.0 * meter.flops
    meter.update(0, KL=math.nan)
    meter.update(500, KL=0.5)
    meter.peak = None
    meter.update(4500, KL=0.25, unused=1200)
    assert shown == [
        (0, ""),
        (500, "KL 0.5000  250 tokens/s  MFU 25.0%"),
        (4000, "KL 0.2500  unused 1,200  2,000 tokens/s"),
    ]


@pytest.mark.parametrize("checkpointing", ["auto", "on", "off"])
def test_prepare_says_what_it_chose(checkpointing):
    model = shaken(tiny("-M-", heads=16, head_dim=4, vocab=61))
    said = prepare(
        model,
        Training(activation_checkpointing=checkpointing, precision="fp8-emulated", bf16_ends=1),
        64,
    )
    assert model.activation_checkpointing == (checkpointing == "on")
    on = "; activation checkpointing (on)" if checkpointing == "on" else ""
    assert said == "2 linear layers in fp8-emulated" + on
