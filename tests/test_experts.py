"""Routed experts against transformers' modules and float64; what is watched, and masks."""

import pytest
import torch
from transformers import NemotronHConfig, Qwen3MoeConfig
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from minipuzzle.kernels.experts import Call, run_experts

EXPERTS, TOP_K, HIDDEN, WIDTH, TOKENS = 6, 2, 16, 8, 30
FORMS = [("relu2", False), ("silu", True), ("relu2", True), ("silu", False)]


def problem(gated, dtype=torch.float64, seed=0):
    """[x, up, down, weights], all with gradients, and the choices, where expert 3 has none."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)  # noqa: E731
    tensors = [
        rand(TOKENS, HIDDEN),
        rand(EXPERTS, (1 + gated) * WIDTH, HIDDEN) / 4,
        rand(EXPERTS, HIDDEN, WIDTH) / 3,
        rand(TOKENS, TOP_K).exp(),
    ]
    order = torch.rand(TOKENS, EXPERTS - 1, generator=g).argsort(1)[:, :TOP_K]
    return [t.to(dtype).requires_grad_() for t in tensors], order + (order >= 3)


def by_hand(x, up, down, weights, chosen, activation, gated, kept=None):
    """Token by token; (sums [n, d], channels [I] and outputs [d] of each token's choices)."""
    function = {"relu2": lambda t: t.relu() ** 2, "silu": torch.nn.functional.silu}[activation]
    channels, outputs = [], []
    for token, experts in zip(x, chosen.tolist(), strict=True):
        for e in experts:
            y = up[e] @ token
            a = function(y[:WIDTH]) * y[WIDTH:] if gated else function(y)
            channels.append(a if kept is None else a * kept[e])
            outputs.append(down[e] @ channels[-1])
    own = torch.stack(outputs).unflatten(0, chosen.shape)
    return (own * weights[..., None]).sum(1), channels, outputs


def gradients(result, tensors):
    return torch.autograd.grad((result * torch.linspace(-1, 1, HIDDEN)).sum(), tensors)


@pytest.mark.parametrize(("activation", "gated"), FORMS)
@pytest.mark.parametrize("masked", [False, True])
def test_sums_and_gradients(activation, gated, masked):
    tensors, chosen = problem(gated)
    kept = torch.rand(EXPERTS, WIDTH, generator=torch.Generator().manual_seed(2)) > 0.3
    kept = kept if masked else None
    want, _, _ = by_hand(*tensors, chosen, activation, gated, kept)
    got = run_experts(Call(*tensors, chosen, activation, gated, kept))
    assert got.dtype == torch.float64
    assert (got - want).abs().max() < 1e-12
    for ours, theirs in zip(gradients(got, tensors), gradients(want, tensors), strict=True):
        assert (ours - theirs).abs().max() < 1e-11
    if masked:
        shrunk = by_hand(*tensors, chosen, activation, gated)[0]
        assert not torch.allclose(got, shrunk)


@pytest.mark.parametrize(("activation", "gated"), FORMS[:2])
def test_what_is_watched(activation, gated):
    """Rows by expert, with the gradients of the real thing."""
    tensors, chosen = problem(gated)
    seen = []
    got = run_experts(Call(*tensors, chosen, activation, gated, None, seen.append))
    want, channels, outputs = by_hand(*tensors, chosen, activation, gated)
    (routed,) = seen
    rows = chosen.flatten().argsort(stable=True)
    assert torch.equal(routed.experts, chosen.flatten()[rows])
    assert torch.equal(routed.gates, tensors[3].flatten()[rows])
    assert torch.allclose(routed.channels, torch.stack(channels)[rows])
    assert torch.allclose(routed.outputs, torch.stack(outputs)[rows])
    counts = chosen.flatten().bincount(minlength=EXPERTS)
    assert counts[3] == 0
    assert torch.equal(routed.offsets.diff(), counts)
    assert routed.offsets[0] == 0
    ours = gradients(got, [routed.channels, routed.outputs])
    theirs = gradients(want, channels + outputs)
    assert torch.allclose(ours[0], torch.stack(theirs[: len(channels)])[rows])
    assert torch.allclose(ours[1], torch.stack(theirs[len(channels) :])[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gated", [False, True])
def test_transformers_modules(gated, dtype):
    if gated:
        config = Qwen3MoeConfig(
            hidden_size=HIDDEN, num_experts=EXPERTS, moe_intermediate_size=WIDTH
        )
        module = Qwen3MoeExperts(config)
    else:
        config = NemotronHConfig(
            hidden_size=HIDDEN, n_routed_experts=EXPERTS, moe_intermediate_size=WIDTH
        )
        module = NemotronHExperts(config)
    config._experts_implementation = "eager"
    module = module.to(dtype)
    (x, up, down, weights), chosen = problem(gated, dtype)
    weights = weights.to(dtype if gated else torch.float32)  # nemotron_h's are FP32 always
    with torch.no_grad():
        module.get_parameter("gate_up_proj" if gated else "up_proj").copy_(up)
        module.down_proj.copy_(down)
        want = module(x, chosen, weights)
        got = run_experts(Call(x, up, down, weights, chosen, "silu" if gated else "relu2", gated))
    assert got.dtype == want.dtype == dtype
    error = (got.double() - want.double()).norm() / want.double().norm()
    assert error < (1e-6 if dtype == torch.float32 else 6e-3)


def test_no_token_at_all():
    tensors, chosen = problem(False)
    tensors[0], tensors[3] = tensors[0][:0], tensors[3][:0]
    assert run_experts(Call(*tensors, chosen[:0], "relu2", False)).shape == (0, HIDDEN)
