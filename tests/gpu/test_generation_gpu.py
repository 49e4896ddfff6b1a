"""Decoding on the GPU: flash attention over rows of unequal lengths, CUDA graphs, prompts in
pieces.
"""

import pytest
import torch

from minipuzzle.arch import Architecture
from minipuzzle.generation import generate
from minipuzzle.generation.step import Decoder, prefill
from minipuzzle.kernels import choose
from minipuzzle.kernels.attention import Rows, causal_attention, row_attention
from minipuzzle.kernels.stored_fp8 import StoredLinear
from minipuzzle.kinds import Attention, FeedForward, Mamba2, Rope
from minipuzzle.model import fp8_model, init_model

pytestmark = pytest.mark.gpu


def relative(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


@pytest.mark.parametrize("heads", [(32, 8), (28, 4), (8, 8)])
def test_row_attention_reads_each_rows_keys_only(heads):
    q_heads, kv = heads
    g = torch.Generator(device="cuda").manual_seed(0)
    q = torch.randn(3, 1, q_heads, 128, generator=g, device="cuda", dtype=torch.bfloat16)
    keys, values = (
        torch.randn(3, 5000, kv, 128, generator=g, device="cuda", dtype=torch.bfloat16)
        for _ in range(2)
    )
    rows = Rows.of([4999, 70, 1234], 5000, q.device)
    got = row_attention(q, keys, values, rows, 5000, None)
    for i, n in enumerate((5000, 71, 1235)):
        k, v = (t[i, :n].double().repeat_interleave(q_heads // kv, 1) for t in (keys, values))
        scores = torch.einsum("hd,khd->hk", q[i, 0].double(), k) / 128**0.5
        assert relative(got[i, 0], torch.einsum("hk,khd->hd", scores.softmax(-1), v)) < 1e-2


def test_causal_attention_after_a_past():
    g = torch.Generator(device="cuda").manual_seed(0)
    q = torch.randn(2, 300, 8, 128, generator=g, device="cuda", dtype=torch.bfloat16)
    k, v = (
        torch.randn(2, 300, 2, 128, generator=g, device="cuda", dtype=torch.bfloat16)
        for _ in range(2)
    )
    whole = causal_attention(q, k, v, 0, None)
    assert relative(causal_attention(q[:, 100:], k, v, 100, None), whole[:, 100:]) < 1e-2


@pytest.mark.parametrize(("q_heads", "kv", "past"), [(32, 8, 20_000), (28, 4, 16_384), (8, 8, 700)])
def test_a_long_piece_after_a_past_joins_its_parts(q_heads, kv, past):
    g = torch.Generator(device="cuda").manual_seed(0)
    q = torch.randn(1, 1024, q_heads, 128, generator=g, device="cuda", dtype=torch.bfloat16)
    k, v = (
        torch.randn(1, past + 1024, kv, 128, generator=g, device="cuda", dtype=torch.bfloat16)
        for _ in range(2)
    )
    got = causal_attention(q, k, v, past, None)
    for i in (0, 511, 1023):
        keys, values = (
            t[0, : past + i + 1].double().repeat_interleave(q_heads // kv, 1) for t in (k, v)
        )
        scores = torch.einsum("hd,khd->hk", q[0, i].double(), keys) / 128**0.5
        assert relative(got[0, i], torch.einsum("hk,khd->hd", scores.softmax(-1), values)) < 1e-2


def architecture():
    rope = Rope(dim=64, theta=5e5)
    m = Mamba2(hidden=256, heads=16, head_dim=64, groups=2, state=128, chunk_size=128)
    f = FeedForward(hidden=256, intermediate=512, gated=True, activation="silu")
    a = Attention(hidden=256, q_heads=4, kv_heads=2, attn_head_dim=64, rope=rope)
    return Architecture(vocab_size=512, hidden=256, blocks=(m, f, a, f, m, a))


@torch.no_grad()
def test_graphs_pieces_and_rows_against_the_whole_forward():
    model = init_model(architecture(), 0, device="cuda", dtype=torch.bfloat16).eval()
    g = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 512, (n,), generator=g).tolist() for n in (700, 300, 300)]
    following = torch.randint(0, 512, (3, 20), generator=g).cuda()
    cache = model.new_cache(3, 720)
    decoder = Decoder(model, cache, 3)
    assert decoder._graph is not None
    first = prefill(model, cache, prompts, 256)
    decoder.start([len(p) for p in prompts])
    steps = torch.stack([first] + [decoder.step(following[:, i]).clone() for i in range(20)], 1)
    for i, prompt in enumerate(prompts):
        tokens = torch.cat((torch.tensor(prompt).cuda(), following[i]))[None]
        assert relative(steps[i], model(tokens)[0, len(prompt) - 1 :]) < 2e-2
    assert generate(model, prompts, 12) == generate(model, prompts, 12)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_stored_fp8_products_are_the_emulated_ones(rows):
    g = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(256, 528, bias=False, dtype=torch.bfloat16)
    x = torch.randn(1, rows, 256, generator=g).bfloat16()
    want = StoredLinear(linear)(x)
    assert relative(StoredLinear(linear.cuda())(x.cuda()).cpu(), want) < 1e-2


@torch.no_grad()
def test_a_model_with_stored_fp8_generates():
    made, device = architecture(), torch.device("cuda")
    model = fp8_model(made, None, device=device, dtype=torch.bfloat16, kernels=choose(device))
    assert [len(a) for a in generate(model, [list(range(300)), [5]], 6)] == [6, 6]
