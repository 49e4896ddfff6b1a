"""Routing against transformers' routers, with all their options; masked experts against a router
without their rows.
"""

import pytest
import torch
from transformers import GptOssConfig, GraniteMoeHybridConfig, NemotronHConfig, Qwen3MoeConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.granitemoehybrid.modeling_granitemoehybrid import (
    GraniteMoeHybridTopKRouter,
)
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHTopkRouter
from transformers.models.olmoe.modeling_olmoe import OlmoeTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from minipuzzle.kernels.routing import Routing, route

EXPERTS, HIDDEN, TOKENS = 12, 16, 40


def drawn(router, seed=0):
    """A router with random weights and inputs [TOKENS, HIDDEN]."""
    g = torch.Generator().manual_seed(seed)
    for tensor in router.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=g) * 0.4)
    return router, torch.randn(TOKENS, HIDDEN, generator=g)


def nemotron(routing):
    config = NemotronHConfig(
        hidden_size=HIDDEN,
        n_routed_experts=EXPERTS,
        num_experts_per_tok=routing.top_k,
        n_group=routing.groups,
        topk_group=routing.groups_kept,
        norm_topk_prob=routing.normalised,
        routed_scaling_factor=routing.scaling,
    )
    return drawn(NemotronHTopkRouter(config))


def same(got, want):
    """Equal choices and weights, whatever the order of a token's choices."""
    (weights, chosen), (theirs, their_choice) = got, want
    table, other = (
        torch.zeros(len(w), EXPERTS, dtype=w.dtype).scatter(1, c, w)
        for w, c in ((weights, chosen), (theirs, their_choice))
    )
    assert weights.dtype == theirs.dtype
    assert chosen.dtype == torch.int64
    assert torch.equal((table != 0), (other != 0))
    assert torch.equal(table, other)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("scaling", [1.0, 2.5])
@pytest.mark.parametrize(("groups", "kept"), [(1, 1), (4, 2), (3, 1), (6, 6)])
@pytest.mark.parametrize("top_k", [1, 3, 4])
def test_sigmoid(normalised, scaling, groups, kept, top_k):
    routing = Routing(
        router="sigmoid",
        top_k=top_k,
        normalised=normalised,
        scaling=scaling,
        groups=groups,
        groups_kept=kept,
    )
    router, x = nemotron(routing)
    logits, *want = router(x)
    same(route(logits, routing, router.e_score_correction_bias), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("make", [Qwen3MoeTopKRouter, OlmoeTopKRouter])
def test_softmax(make, normalised, dtype):
    config = Qwen3MoeConfig(
        hidden_size=HIDDEN, num_experts=EXPERTS, num_experts_per_tok=4, norm_topk_prob=normalised
    )
    router, x = drawn(make(config))
    logits, *want = router.to(dtype)(x.to(dtype))
    same(route(logits, Routing(router="softmax", top_k=4, normalised=normalised)), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_softmax_over_the_chosen(dtype):
    routing = Routing(router="chosen_softmax", top_k=4, normalised=True)
    sizes = {"hidden_size": HIDDEN, "num_local_experts": EXPERTS, "num_experts_per_tok": 4}
    config = GraniteMoeHybridConfig(**sizes, mamba_n_heads=4)
    router, x = drawn(GraniteMoeHybridTopKRouter(config))
    x = x.to(dtype)
    _, *want = router.to(dtype)(x)
    same(route(torch.nn.functional.linear(x, router.weight), routing), want)
    router, x = drawn(GptOssTopKRouter(GptOssConfig(**sizes)))
    logits, *want = router.to(dtype)(x.to(dtype))
    same(route(logits, routing), want)


@pytest.mark.parametrize(
    "routing",
    [
        Routing(router="sigmoid", top_k=3, normalised=True, scaling=2.5),
        Routing(router="sigmoid", top_k=3, normalised=False, groups=3, groups_kept=2),
        Routing(router="softmax", top_k=3, normalised=False),
        Routing(router="softmax", top_k=3, normalised=True),
        Routing(router="chosen_softmax", top_k=3, normalised=True),
    ],
)
def test_experts_that_are_cut_are_as_if_they_were_not_there(routing):
    """The logits' gradient too."""
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(TOKENS, EXPERTS, generator=g, dtype=torch.float64)
    correction = torch.randn(EXPERTS, generator=g, dtype=torch.float64)
    correction = correction if routing.router == "sigmoid" else None
    stay = torch.tensor([0, 2, 3, 4, 6, 7, 8, 10, 11])  # three of each of three groups
    kept = torch.zeros(EXPERTS, dtype=torch.bool)
    kept[stay] = True
    ends = []
    for cut in (False, True):
        leaf = logits.clone().requires_grad_()
        if cut:
            bias = None if correction is None else correction[stay]
            weights, chosen = route(leaf[:, stay], routing, bias)
            chosen = stay[chosen]
        else:
            weights, chosen = route(leaf, routing, correction, kept)
        table = torch.zeros(TOKENS, EXPERTS, dtype=torch.float64).scatter(1, chosen, weights)
        (table * torch.linspace(-1, 1, EXPERTS, dtype=torch.float64)).sum().backward()
        ends.append((table.detach(), leaf.grad))
    assert (ends[0][0] > 0).sum() == TOKENS * routing.top_k
    assert torch.allclose(ends[0][0], ends[1][0], rtol=1e-12, atol=0)
    assert torch.allclose(ends[0][1], ends[1][1], rtol=1e-9, atol=1e-15)
    if routing.router == "softmax" and not routing.normalised:  # the denominator shrinks
        assert not torch.allclose(ends[0][0].sum(1), route(logits, routing)[0].sum(1))


def test_weights_are_differentiable_as_theirs():
    routing = Routing(
        router="sigmoid", top_k=4, normalised=True, scaling=2.5, groups=4, groups_kept=2
    )
    router, x = nemotron(routing)
    grads = []
    for ours in (True, False):
        router.weight.grad = None
        logits, weights, chosen = router(x)
        if ours:
            weights, chosen = route(logits, routing, router.e_score_correction_bias)
        (weights * chosen).sum().backward()
        grads.append(router.weight.grad)
    assert torch.equal(*grads)
