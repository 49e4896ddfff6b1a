"""Adapters: plans and counts against the paper's formulas, gradients."""

import pytest
import torch
from adapted_models import MASKS, adapted, tokens_of
from conftest import shaken, tiny

from minipuzzle.adapters import attach, check_start, detach, make_plan, parse_mask
from minipuzzle.arch import Architecture
from minipuzzle.errors import UserError
from minipuzzle.kinds import KINDS, Attention, FeedForward

LLAMA_7B = Architecture(
    vocab_size=32000,
    hidden=4096,
    blocks=tuple(
        Attention(hidden=4096, q_heads=32, kv_heads=32, attn_head_dim=128) for _ in range(32)
    ),
)


@pytest.mark.parametrize(
    ("rank", "tl5", "tl6"),
    [(2, 32_768, 426_048), (8, 131_072, 524_544), (128, 2_097_152, 2_494_464)],
)
def test_counts_are_the_papers(rank, tl5, tl6):
    """arXiv:2311.09578, LLaMA2-7B's fused QKV: 4Ldr for LoRA, 4dr tied, + L(r + 3d) with u and v;
    TL5/LoRA = 1/L.
    """
    plans = {
        name: make_plan(LLAMA_7B, name, rank=rank, target="qkv")
        for name in ("lora", "tl5", "tl6", "vera")
    }
    lora = 4 * 32 * 4096 * rank
    assert {name: plan.trainable for name, plan in plans.items()} == {
        "lora": lora,
        "tl5": tl5,
        "tl6": tl6,
        "vera": 32 * (rank + 3 * 4096),
    }
    assert all(plan.lora == lora for plan in plans.values())
    assert plans["tl5"].trainable * 32 == lora


@pytest.mark.parametrize("mask", MASKS)
def test_counts_are_the_tensors(mask):
    model = adapted(mask)
    plan = model.adapters.plan
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == plan.trainable
    assert all(
        name.startswith("adapters.") for name, p in model.named_parameters() if p.requires_grad
    )


def test_groups_are_kind_and_shape():
    blocks = list(tiny("M-M-M-*-", vocab=61).blocks)
    blocks[3] = FeedForward(hidden=32, intermediate=40)
    plan = make_plan(Architecture(vocab_size=61, hidden=32, blocks=tuple(blocks)), "tl6", rank=4)
    sizes = {group.name: len(group.sites) for group in plan.groups}
    assert sizes["mlp-up_proj-32x64"] == 3
    assert sizes["mlp-up_proj-32x40"] == 1
    assert {"mlp-up_proj-32x40", "mlp-down_proj-40x32", "attention-q_proj-32x32"} <= set(
        plan.lonely
    )
    assert make_plan(tiny("M-*"), "lora", rank=4).lonely == ()


@pytest.mark.parametrize("target", ["in,out", "mamba", "in_proj,out_proj"])
def test_targets(target):
    plan = make_plan(tiny(), "tl5", rank=2, target=target)
    assert {site.projections[0] for group in plan.groups for site in group.sites} == {
        "in_proj",
        "out_proj",
    }


def test_targets_that_would_do_nothing_are_refused():
    with pytest.raises(UserError, match="matches nothing") as caught:
        make_plan(tiny("M-M-"), "lora", rank=2, target="q_proj")
    assert "mamba" in caught.value.allowed
    wide = tiny("M-" * 10 + "*")
    with pytest.raises(UserError, match="almost none") as caught:
        make_plan(wide, "lora", rank=2, target="qkv")
    assert "1 of 21 blocks" in caught.value.got
    assert len(make_plan(wide, "lora", rank=2, target="qkv", few=True).groups) == 1
    with pytest.raises(UserError, match="no such adapter"):
        parse_mask("tied:A,C")
    with pytest.raises(UserError, match="no such adapter"):
        parse_mask("tied:")
    with pytest.raises(UserError, match="rank"):
        make_plan(tiny(), "lora", rank=0)


@pytest.mark.parametrize("mask", MASKS)
def test_training_starts_at_the_model_with_a_gradient(mask):
    model = shaken(tiny("M-*-", vocab=61))
    tokens = tokens_of(model)
    before = model(tokens)
    attach(model, make_plan(model.architecture, mask, rank=3))
    logits = model(tokens)
    assert torch.equal(before, logits)
    logits.square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.adapters.parameters())
    assert all(
        p.grad is None for name, p in model.named_parameters() if not name.startswith("adapters.")
    )
    check_start(model.adapters.plan, model.adapters.tensors())


@pytest.mark.parametrize(
    ("mask", "zero"), [("tl6", "Bv"), ("vera", "A"), ("tied:B", "A"), ("lora", "AB")]
)
def test_a_start_without_gradient_is_refused(mask, zero):
    adapters = adapted(mask).adapters
    tensors = {
        name: torch.zeros_like(t) if name[-1] in zero else t
        for name, t in adapters.tensors().items()
    }
    with pytest.raises(UserError, match="never learn"):
        adapters.load(tensors)


@pytest.mark.parametrize("target", ["all", "qkv,o,mamba,mlp"])
def test_forward_is_the_formula(target):
    """Against the merged weights in float64, made here from the formula."""
    model = adapted("tl6", target, alpha=6.0).double()
    want = shaken(tiny("M-M*-M*-", vocab=61)).double()
    modules = dict(want.named_modules())
    with torch.no_grad():
        for group in model.adapters.plan.groups:
            factors = model.adapters.groups[group.name]
            for layer, site in enumerate(group.sites):
                delta = (
                    2.0
                    * torch.diag(factors.v[layer])
                    @ factors.B
                    @ torch.diag(factors.u[layer])
                    @ factors.A
                )
                for name, rows in site.parts():
                    modules[name].weight += delta[rows]
    tokens = tokens_of(model)
    assert (model(tokens) - want(tokens)).abs().max() < 1e-12


def test_tied_gradients_are_the_sums_of_untied_ones():
    tied, untied = adapted("tl6").double(), shaken(tiny("M-M*-M*-", vocab=61)).double()
    attach(untied, make_plan(untied.architecture, "layer:A,B,u,v", rank=3)).double()
    with torch.no_grad():
        for name, group in untied.adapters.groups.items():
            for factor, parameter in group.named_parameters():
                parameter.copy_(getattr(tied.adapters.groups[name], factor).expand_as(parameter))
    tokens = tokens_of(tied)
    for model in (tied, untied):
        model(tokens).square().mean().backward()
    for name, group in tied.adapters.groups.items():
        other = untied.adapters.groups[name]
        for factor in "AB":
            want = getattr(other, factor).grad.sum(0)
            assert (getattr(group, factor).grad - want).abs().max() <= 1e-12 * want.abs().max(), (
                name,
                factor,
            )
        for factor in "uv":
            assert torch.allclose(
                getattr(group, factor).grad, getattr(other, factor).grad, rtol=1e-10, atol=1e-14
            )


def test_activation_checkpointing_changes_nothing():
    gradients = []
    for recompute in (frozenset(), frozenset(KINDS)):
        model = adapted("tl6")
        model.recomputed = recompute
        model(tokens_of(model)).square().mean().backward()
        gradients.append([p.grad for p in model.adapters.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_step_keeps_no_graph_for_the_next():
    """An accumulator that outlives its step stays on the stream of that step, and a capture on
    another one fails.
    """
    model = adapted("tl6")
    tokens = tokens_of(model)

    def accumulators():
        return [
            p.view_as(p).grad_fn.next_functions[0][0] for p in model.parameters() if p.requires_grad
        ]

    model(tokens).sum().backward()
    model(tokens)  # the last forward of a model keeps its graph until the next
    for node in (old := accumulators()):
        node.metadata["old"] = True
    del node, old
    model(tokens).sum().backward()
    assert not [node for node in accumulators() if "old" in node.metadata]


def test_detach_gives_the_model_back():
    model = adapted("lora")
    detach(model)
    assert torch.equal(
        model(tokens_of(model)), shaken(tiny("M-M*-M*-", vocab=61))(tokens_of(model))
    )
