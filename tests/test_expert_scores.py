"""Scores of experts, their channels and choices of a token, by a loop over tokens in float64."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import shaken
from scored_texts import VOCAB, texts, tokens

from minipuzzle.arch import Architecture
from minipuzzle.errors import UserError
from minipuzzle.importance import Collector, taylor_scores
from minipuzzle.importance.experts import find
from minipuzzle.kinds import Experts
from minipuzzle.registry import EXPERT_ESTIMATORS
from minipuzzle.settings import ScoreSettings

SIZES = {"hidden": 16, "experts": 8, "top_k": 3, "expert_width": 6}
FORMS = {
    "plain": {"shared_width": 10},
    "latent, in groups": {
        "latent": 8,
        "shared_width": 10,
        "router_groups": 4,
        "router_groups_kept": 2,
        "scaling": 2.5,
        "bias": True,
    },
    "gated, of all": {
        "router": "softmax",
        "normalised": False,
        "gated": True,
        "activation": "silu",
        "shared_width": 10,
        "shared_gate": True,
    },
    "gated, of the chosen": {"router": "chosen_softmax", "gated": True, "activation": "silu"},
}
EACH_FORM = pytest.mark.parametrize("form", FORMS)
LOST = 5  # an expert that no token chooses


@cache
def model_of(form):
    block = Experts(**SIZES, **FORMS[form])
    model = shaken(Architecture(vocab_size=VOCAB, hidden=16, blocks=(block, block)))
    with torch.no_grad():
        for module in model.blocks:
            for parameter in module.parameters():
                parameter.mul_(3)
    return model


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def act(block, x):
    return np.square(np.maximum(x, 0)) if block.activation == "relu2" else x / (1 + np.exp(-x))


def projected(block, up, x):
    """Channels [width] of an expert whose first matrix is ``up``."""
    if not block.gated:
        return act(block, up @ x)
    gate, other = np.split(up @ x, 2)
    return act(block, gate) * other


def chosen(block, p, x):
    """{expert: gate} of a token."""
    logits = p["router.weight"] @ x
    if block.router == "sigmoid":
        s = 1 / (1 + np.exp(-logits))
        c = (s + p["router.correction"]).reshape(block.router_groups, -1)
        if block.router_groups > 1:
            best = np.argsort(-np.sort(c, axis=1)[:, -2:].sum(1))[: block.router_groups_kept]
            c[[g for g in range(len(c)) if g not in best]] = -np.inf
        c = c.ravel()
    else:
        s = c = softmax(logits) if block.router == "softmax" else logits
    places = np.argsort(-c)[: block.top_k]
    w = softmax(logits[places]) if block.router == "chosen_softmax" else s[places]
    if block.normalised and block.router != "chosen_softmax":
        w = w / w.sum()
    return {int(j): float(v) * block.scaling for j, v in zip(places, w, strict=True)}


@torch.no_grad()
def by_hand(model, index=0):
    """What goes through a block, token by token: "rows" of (token, expert, gate, channels, what the
    expert adds before its gate), "shared" and "latent" [tokens, width].
    """
    module, block = model.blocks[index], model.blocks[index].block
    p = {name: value.double().numpy() for name, value in module.state_dict().items()}
    h = model.run_blocks(model.embed(tokens(texts())), None, 0, index)
    h = h.double().numpy().reshape(-1, block.hidden)
    x = h / np.sqrt(np.square(h).mean(1, keepdims=True) + module.norm.eps) * p["norm.weight"]
    up = p["experts.gate_up_proj" if block.gated else "experts.up_proj"]
    rows, latent, shared = [], [], []
    for t, token in enumerate(x):
        u = token
        if block.latent:
            u = p["latent_in_proj.weight"] @ token + p["latent_in_proj.bias"]
        r = 0
        for j, gate in chosen(block, p, token).items():
            channels = projected(block, up[j], u)
            out = p["experts.down_proj"][j] @ channels
            r = r + gate * out
            rows.append(
                (t, j, gate, channels, p["latent_out_proj.weight"] @ out if block.latent else out)
            )
        latent.append(r)
        if block.shared_width:
            first = "shared_gate_up_proj" if block.gated else "shared_up_proj"
            bias = p.get(f"{first}.bias", 0)
            y = p[f"{first}.weight"] @ token + bias
            half = np.split(y, 2) if block.gated else None
            shared.append(act(block, half[0]) * half[1] if block.gated else act(block, y))
    return SimpleNamespace(
        rows=rows, tokens=len(x), shared=np.array(shared), latent=np.array(latent), weights=p
    )


def collected(model, estimator="mixed", experts="reap", index=0, parts=2):
    block, module = model.blocks[index].block, model.blocks[index]
    with torch.no_grad(), Collector(block, module, estimator, experts=experts) as found:
        for part in tokens(texts()).split(parts):
            model.hidden_states(part)
    return found.scores()


def experts_by_hand(name, got, count):
    scores = np.zeros(count)
    for j in range(count):
        own = [(gate, np.linalg.norm(out)) for _, i, gate, _, out in got.rows if i == j]
        if own:
            gates, norms = np.array(own).T
            scores[j] = {
                "reap": (gates * norms).mean(),
                "frequency": len(own) / got.tokens,
                "output-norm": norms.mean(),
                "output-sum": norms.sum(),
            }[name]
    return scores


@EACH_FORM
@pytest.mark.parametrize("name", ["reap", "frequency", "output-norm", "output-sum"])
def test_experts_are_scored_by_the_formula(form, name):
    model = model_of(form)
    for index in range(2):
        want = experts_by_hand(name, by_hand(model, index), SIZES["experts"])
        found = collected(model, experts=name, index=index)["experts"]
        assert np.allclose(found, want, rtol=1e-4)
    assert len(np.unique(want)) > 4


def test_every_estimator_of_experts_is_tested():
    known = {"reap", "frequency", "output-norm", "output-sum"}
    assert set(EXPERT_ESTIMATORS.names()) == known | {"damage", "random"}
    for name, summary in EXPERT_ESTIMATORS.summaries().items():
        assert 10 < len(summary) <= 100, summary
        assert find(name).source
    with pytest.raises(UserError, match="no expert estimator 'reep'") as caught:
        ScoreSettings(experts="reep")
    assert "'reap'" in caught.value.next
    model = model_of("plain")
    drawn = [collected(model, experts="random")["experts"] for _ in range(2)]
    assert (drawn[0] == drawn[1]).all()
    assert "experts" not in collected(model, experts="damage")


def channels_by_hand(name, x, weight):
    """[c] by the formulas of FFN channels: x [rows, c] of single tokens, weight [d, c]."""
    norms = np.linalg.norm(weight, axis=0)
    if name == "flap":
        return x.var(0, ddof=1) * norms**2
    if name == "wanda":
        return np.abs(weight).mean(0) * np.sqrt(np.square(x).mean(0))
    if name == "contribution":
        return np.abs(x).mean(0) * norms
    return np.sqrt(np.square(x).sum(0))  # minitron: each row is a sequence of one token


@EACH_FORM
@pytest.mark.parametrize("name", ["contribution", "flap", "wanda", "minitron", "minitron-pre"])
def test_channels_are_scored_by_the_formula(form, name):
    """Of each expert on its own rows times their gates; of the shared one and the latent size on
    all tokens.
    """
    model, block = model_of(form), model_of(form).blocks[0].block
    got, found = by_hand(model), collected(model, name)
    for j in range(block.experts):
        own = [gate * channels for _, i, gate, channels, _ in got.rows if i == j]
        want = np.zeros(block.expert_width)
        if len(own) > 1:
            want = channels_by_hand(name, np.array(own), got.weights["experts.down_proj"][j])
        assert np.allclose(found["expert_channels"][j], want, rtol=1e-4, atol=1e-12)
    if name.startswith("minitron"):
        return  # means over sequences: as an FFN's, in tests/test_estimators.py
    if block.shared_width:
        want = channels_by_hand(name, got.shared, got.weights["shared_down_proj.weight"])
        assert np.allclose(found["shared_channels"], want, rtol=1e-4)
    if block.latent:
        want = channels_by_hand(name, got.latent, got.weights["latent_out_proj.weight"])
        assert np.allclose(found["latent_channels"], want, rtol=1e-4)


@EACH_FORM
def test_choices_are_scored_by_the_formula(form):
    model, got = model_of(form), by_hand(model_of(form))
    want = np.zeros(SIZES["top_k"])
    for t in range(got.tokens):
        own = sorted(
            ((g, np.linalg.norm(out)) for i, _, g, _, out in got.rows if i == t), reverse=True
        )
        want += [gate * norm for gate, norm in own]
    assert np.allclose(collected(model)["choices"], want / got.tokens, rtol=1e-4)


@EACH_FORM
def test_an_expert_without_tokens_scores_nothing(form):
    model = model_of(form)
    module = model.blocks[0]
    with module.masked({"experts": tuple(j for j in range(SIZES["experts"]) if j != LOST)}):
        for name in ("reap", "frequency", "output-norm", "output-sum"):
            found = collected(model, "flap", experts=name)
            assert found["experts"][LOST] == 0
            assert np.isfinite(found["expert_channels"]).all()
            assert not found["expert_channels"][LOST].any()
            assert np.count_nonzero(found["experts"]) > 3


@EACH_FORM
def test_taylor_is_the_derivative_of_gates(form):
    """On what each expert adds, on its channels, and on the choices with the largest gates."""
    model = shaken(model_of(form).architecture).double()
    model.load_state_dict(model_of(form).state_dict())
    found = taylor_scores(model, texts(), samples=4, batch=2).widths
    module, block = model.blocks[1], model.blocks[1].block
    e, i = block.experts, block.expert_width
    gates = [
        torch.ones(n, dtype=torch.float64, requires_grad=True) for n in ((e,), (e, i), block.top_k)
    ]
    down, usual = module.experts.down_proj.detach(), module.route

    def route(x):
        weights, places = usual(x)
        rank = weights.argsort(dim=-1, descending=True).argsort(dim=-1)
        return weights * gates[2][rank], places

    module.route = route
    del module.experts.down_proj
    squares = [torch.zeros_like(gate) for gate in gates]
    for sample in torch.from_numpy(texts().take(4, seed=0).tokens.astype(np.int64)).split(1):
        module.experts.down_proj = down * gates[0][:, None, None] * gates[1][:, None]
        logits = model(sample)[:, :-1].double()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample[:, 1:].flatten())
        for total, part in zip(squares, torch.autograd.grad(loss, gates), strict=True):
            total += part.square()
    for name, total in zip(("experts", "expert_channels", "choices"), squares, strict=True):
        want = (total / 4).sqrt().numpy()
        assert np.allclose(found[name][1], want, rtol=1e-3, atol=1e-9), name
