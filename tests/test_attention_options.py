"""Options of attention that no family has alone: blocks against transformers' modules."""

import torch
from conftest import shaken
from transformers import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5Attention,
    Qwen3_5RMSNorm,
    Qwen3_5TextRotaryEmbedding,
)

from minipuzzle.arch import Architecture, Selection
from minipuzzle.kinds import Attention, Rope
from minipuzzle.model import HybridLM
from minipuzzle.model.base import Context

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
