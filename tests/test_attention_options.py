"""Options of attention that no family has alone: blocks against transformers' modules."""

from dataclasses import replace

import numpy as np
import torch
from conftest import shaken
from transformers import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5Attention,
    Qwen3_5RMSNorm,
    Qwen3_5TextRotaryEmbedding,
)

from minipuzzle.arch import Architecture, Selection
from minipuzzle.cost.flops import flops_per_token, text_flops
from minipuzzle.generation.runtime import Runtime
from minipuzzle.generation.step import Decoder, prefill
from minipuzzle.kernels.attention import Rows, causal_attention, masked_attention
from minipuzzle.kinds import Attention, FeedForward, Rope
from minipuzzle.memory import Workload, resident
from minipuzzle.memory.inference import cache_bytes
from minipuzzle.model import HybridLM
from minipuzzle.model.base import Context
from minipuzzle.nas.grid import Grid

LENGTH = 19
GATED = Attention(
    hidden=32,
    q_heads=4,
    kv_heads=2,
    attn_head_dim=16,
    rope=Rope(dim=4, theta=1e4),
    qk_norm=True,
    bias=True,
    output_gate=True,
    zero_centred=True,
)


def gated():
    shape = Architecture(
        vocab_size=64, hidden=32, blocks=(GATED,), norm_eps=1e-6, zero_centred=True
    )
    return shaken(shape)


@torch.no_grad()
def test_a_gate_and_zero_centred_norms_are_those_of_qwen3_5():
    model = gated()
    config = Qwen3_5TextConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
        _attn_implementation="sdpa",
    )
    theirs, norms = Qwen3_5Attention(config, 0), (Qwen3_5RMSNorm(32), Qwen3_5RMSNorm(32))
    block, state = model.blocks[0], model.blocks[0].state_dict()
    theirs.load_state_dict(
        {k: v for k, v in state.items() if not k.startswith("norm.")}
        | {"o_proj.bias": torch.zeros(32)}
    )
    norms[0].weight.copy_(block.norm.weight)
    norms[1].weight.copy_(model.final_norm.weight)
    h = torch.randn(2, LENGTH, 32, generator=torch.Generator().manual_seed(0))
    turned = Qwen3_5TextRotaryEmbedding(config)(h, torch.arange(LENGTH)[None])
    want = theirs(norms[0](h), turned, None)[0]
    assert (block.branch(h, Context()) - want).abs().max() < 1e-5
    assert (model.final_norm(h) - norms[1](h)).abs().max() < 1e-5
    assert model.final_norm.weight.abs().max() > 0.1  # 1 + w is neither w nor 1
    fresh = HybridLM(model.architecture).blocks[0]
    assert not any(norm.weight.any() for norm in (fresh.norm, fresh.q_norm, fresh.k_norm))


@torch.no_grad()
def test_heads_with_gates_are_masked_as_they_are_cut():
    model = gated()
    selection = Selection(
        blocks=({"kv_heads": (1,), "q_heads": (2, 3)},), hidden=tuple(range(0, 32, 2))
    )
    student = HybridLM(selection.student(model.architecture)).eval()
    for tensor in student.architecture.tensors():
        value = model.get_parameter(tensor.name)
        sizes = {"vocab": 64, **GATED.sizes}
        axes = selection.axes(0)
        for dim, indices in enumerate(tensor.weight.indices(sizes, axes)):
            value = value if indices is None else value[(slice(None),) * dim + (indices,)]
        student.get_parameter(tensor.name).copy_(value)
    tokens = torch.randint(0, 64, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    want = student(tokens)
    with model.masked(selection):
        assert (model(tokens) - want).abs().max() <= 1e-5 * want.abs().max()
    cache = model.new_cache(2, LENGTH)
    parts = [model(part, cache=cache) for part in tokens.split([7, *[1] * 12], 1)]
    assert (torch.cat(parts, 1) - model(tokens)).abs().max() < 1e-4


WINDOWED = Architecture(
    vocab_size=64,
    hidden=32,
    blocks=(
        replace(GATED, sliding_window=6),
        FeedForward(hidden=32, intermediate=16),
        replace(GATED, sliding_window=11),
        replace(GATED, output_gate=False),
    ),
)
TOKENS = torch.randint(0, 64, (2, 40), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_a_window_in_pieces_and_a_token_a_row_is_the_window_of_a_whole_text():
    """The pieces fill, wrap and outgrow rings of 6 and 11 tokens."""
    model = shaken(WINDOWED)
    whole = model(TOKENS)
    q, k, v = (torch.randn(1, 23, heads, 8) for heads in (4, 2, 2))
    far = torch.arange(23)[:, None] - torch.arange(23)
    mask = (far >= 0) & (far < 5)
    kernel = causal_attention(q, k, v, 0, None, 5)
    assert (kernel - masked_attention(q, k, v, mask, None)).abs().max() < 1e-6
    for pieces in ([4, 1, 3, 1, 1, 20, 1, 9], [13, 27], [1] * 40):
        cache = model.new_cache(2, 40)
        parts = []
        for piece in TOKENS.split(pieces, 1):
            parts.append(model(piece, cache=cache))
        assert (torch.cat(parts, 1) - whole).abs().max() < 1e-4
    lengths = [17, 3]
    cache = model.new_cache(2, 40)
    decoder = Decoder(model, cache, 2)
    prefill(model, cache, [TOKENS[i, :n].tolist() for i, n in enumerate(lengths)], 8)
    decoder.start(lengths)
    for step in range(14):
        got = decoder.step(torch.stack([TOKENS[i, n + step] for i, n in enumerate(lengths)]))
        want = torch.stack([whole[i, n + step] for i, n in enumerate(lengths)])
        assert (got - want).abs().max() < 1e-4


def test_rows_in_a_ring_are_the_last_of_each():
    """As a GPU's kernel reads them: where they are written, how many, and where they begin."""
    rows = Rows.of([2, 17], 40, torch.device("cpu")).wrapped(6)
    assert rows.positions.tolist() == [2, 5]
    assert rows.lengths.tolist() == [3, 6]
    assert rows.key_starts.tolist() == [0, 6, 12]


def test_a_window_bounds_what_is_held_and_counted():
    """Of 6, 11 and all tokens; by pencil, and as allocated."""
    token = 2 * 2 * 16
    runtime = Runtime(dtype=torch.float32, state_dtype=torch.float32, fast=False)
    for context in (5, 8, 40):
        tokens = min(context, 6) + min(context, 11) + context
        cache = shaken(WINDOWED).new_cache(3, context)
        held = sum(slot.nbytes("kv") for slot in cache.slots if slot is not None)
        assert held == 3 * 4 * token * tokens == cache_bytes(WINDOWED, 3, context, runtime)
        counted = resident(WINDOWED, Workload(context=context, batch=3, kv="fp32"))["kv"]
        assert counted == held
        attention = flops_per_token(WINDOWED, context).attention
        assert attention == 4 * 4 * 16 * tokens
    one = replace(WINDOWED, blocks=WINDOWED.blocks[:1])
    seen = sum(min(i + 1, 6) for i in range(41)) // 41
    assert text_flops(one, 41).attention == 4 * 4 * 16 * seen


def test_a_grid_counts_the_block_that_remembers_most():
    points = Grid(kinds=("attention",), axes=(), points=np.array([[2, 32]]))
    forms, _ = points.forms(WINDOWED, "attention")
    assert [block.sliding_window for block in forms] == [None]
