"""Gated DeltaNet as a kind: its counts, its masks against slices, caches, packed documents, and the
scores of its keys. Families compare it with transformers (tests/family_models.py).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import shaken, tiny
from scored_texts import VOCAB, texts, tokens

from minipuzzle.importance import Collector, taylor_scores
from minipuzzle.kinds import DeltaNet
from minipuzzle.model import init_model
from minipuzzle.model.base import Context, make_block

WIDTHS = {width.axis: width for width in DeltaNet.widths}
TOKENS = torch.randint(0, 64, (2, 90), generator=torch.Generator().manual_seed(1))


def test_its_counts_are_those_of_published_layers():
    """GDN layers of Qwen3.5-9B and of OLMo Hybrid 7B (a norm of the hidden size apart)."""
    qwen = DeltaNet(hidden=4096, key_groups=16, group_heads=2, key_dim=128, value_dim=128)
    olmo = DeltaNet(hidden=3840, key_groups=30, group_heads=1, key_dim=96, value_dim=192)
    assert qwen.parameters - 4096 == 67_403_968
    kd, vd = 30 * 96, 30 * 192
    convolved = 2 * kd + vd
    layer = 3840 * (convolved + vd + 60) + 4 * convolved + 60 + 192 + vd * 3840
    assert olmo.parameters - 3840 == layer
    cache = qwen.cache(9)
    assert (cache.kv, 4 * cache.state) == (0, 2 << 20)  # 2 MiB in FP32
    assert cache.window == 3 * (2 * 2048 + 4096)
    projected = 2 * 4096 * (2 * 2048 + 2 * 4096 + 64 + 4096)
    assert qwen.flops(1).matmul == projected
    assert qwen.flops(1).scan == 7 * 32 * 128 * 128 + 7 * (2 * 2048 + 4096)


@torch.no_grad()
@pytest.mark.parametrize("axes", [*([a] for a in WIDTHS), list(WIDTHS)], ids="+".join)
def test_masked_is_sliced(axes):
    block, random = tiny("D").blocks[0], np.random.default_rng(0)
    module = shaken(tiny("D", vocab=64)).blocks[0]
    size = {"key_groups": 2, "group_heads": 1, "key_dim": 5, "value_dim": 7}
    kept = {}
    for axis in axes:
        values = random.random(WIDTHS[axis].score_shape(block))
        kept |= WIDTHS[axis].keep(block, values, size[axis], kept)
    small = make_block(block.resized(**block.kept_sizes(kept)), 1e-5, module.kernels)
    assert small.block.sizes == {**block.sizes, **{axis: size[axis] for axis in axes}}
    for weight in block.weights:
        value = module.get_parameter(weight.name)
        for dim, places in enumerate(weight.indices(block.sizes, kept)):
            if places is not None:
                value = value.index_select(dim, torch.from_numpy(places))
        small.get_parameter(weight.name).copy_(value)
    h = torch.randn(2, 70, 32)
    with module.masked(kept):
        masked = module.branch(h, Context())
    whole, cut = module.branch(h, Context()), small.branch(h, Context())
    assert (masked - cut).abs().max() < 1e-5 * cut.abs().max()
    assert (masked - whole).abs().max() > 1e-2 * whole.abs().max()


@torch.no_grad()
def test_a_cache_gives_what_the_whole_text_does():
    model = shaken(tiny("D-D*", vocab=64))
    want, cache = model(TOKENS), model.new_cache(2, 90)
    parts = [model(TOKENS[:, a:b], cache=cache) for a, b in ((0, 2), (2, 70), (70, 75))]
    parts += [model(TOKENS[:, i : i + 1], cache=cache) for i in range(75, 90)]
    assert (torch.cat(parts, 1) - want).abs().max() < 1e-4 * want.abs().max()
    declared = model.architecture.blocks[0].cache(1)
    slot = cache.slots[0]
    assert slot.state.numel() == 2 * declared.state
    assert slot.window.numel() // 4 * 3 == 2 * declared.window  # the newest input too


@torch.no_grad()
def test_nothing_passes_from_one_document_into_the_next():
    model = shaken(tiny("D-D", vocab=64))
    documents = torch.tensor([[0] * 13 + [2] * 60 + [3] * 17]).expand(2, -1)
    want = torch.cat([model(part) for part in TOKENS.split([13, 60, 17], 1)], 1)
    got = model(TOKENS, documents=documents)
    assert (got - want).abs().max() < 1e-5 * want.abs().max()
    assert (model(TOKENS) - want).abs().max() > 1e-2 * want.abs().max()


def test_fresh_values_are_those_of_published_code():
    module = init_model(tiny("D", vocab=64), seed=0).blocks[0]
    dt = torch.nn.functional.softplus(module.dt_bias)
    assert 1e-3 <= dt.min() < dt.max() <= 0.1
    assert 1 <= module.A_log.exp().min() < module.A_log.exp().max() <= 16
    assert module.in_proj_ba.weight.std() > 0.01
    assert 0.2 < module.conv.weight.abs().max() <= 0.5
    own = replace(module.block, gated_norm_eps=0.5)
    assert (make_block(own, 1e-6, None).gated_norm.eps, module.gated_norm.eps) == (0.5, 1e-5)


def test_keys_are_scored_by_what_the_rule_reads():
    model, x = shaken(tiny("D", vocab=VOCAB)), tokens(texts())
    module, block, got = model.blocks[0], model.blocks[0].block, []
    rule = module.kernels.delta_rule

    def reading(q, k, *others, **options):
        got.append((q.double().numpy(), k.double().numpy()))
        return rule(q, k, *others, **options)

    module.kernels = replace(module.kernels, delta_rule=reading)
    with torch.no_grad(), Collector(block, module, "mixed") as collector:
        model.hidden_states(x)
    (q, k) = got[0]
    assert np.allclose(np.square(q).sum(-1), 1, atol=1e-3)
    want = np.sqrt(np.square(q).mean((0, 1)) * np.square(k).mean((0, 1)))
    assert np.allclose(collector.scores()["key_channels"], want, rtol=1e-5)


def test_taylor_of_keys_is_the_derivative_of_a_gate_on_products():
    model = shaken(tiny("D", vocab=VOCAB)).double()
    module, block = model.blocks[0], model.blocks[0].block
    found = taylor_scores(model, texts(), samples=3, batch=2).widths["key_channels"][0]
    gate = torch.ones(block.key_groups, block.key_dim, dtype=torch.float64, requires_grad=True)
    rule, root = module.kernels.delta_rule, gate.sqrt()
    module.kernels = replace(
        module.kernels, delta_rule=lambda q, k, *others, **o: rule(q * root, k * root, *others, **o)
    )
    squares = torch.zeros_like(gate)
    for sample in torch.from_numpy(texts().take(3, seed=0).tokens.astype(np.int64)).split(1):
        logits = model(sample)[:, :-1].double()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample[:, 1:].flatten())
        squares += torch.autograd.grad(loss, gate, retain_graph=True)[0].square()
    assert np.allclose(found, (squares / 3).sqrt().numpy(), rtol=1e-3)
