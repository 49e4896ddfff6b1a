"""Taylor against differences of the loss."""

import numpy as np
import pytest
import torch
from conftest import shaken, tiny
from scored_texts import VOCAB, texts, tokens

from minipuzzle.importance import taylor_scores
from minipuzzle.model import HybridLM


def loss_by_sample(model: HybridLM, x):
    with torch.no_grad():
        logits = model(x)[:, :-1].double()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), x[:, 1:].flatten(), reduction="none"
    )
    return losses.view(len(x), -1).mean(1).numpy()


def by_difference(model, x, weights, eps=2e-2):
    """sqrt(mean_b (dL_b/dm)^2) of scaling ``weights`` (tensor views) by m, by central
    differences.
    """
    ends = []
    for m in (1 + eps, 1 - eps):
        before = [w.clone() for w in weights]
        with torch.no_grad():
            for w in weights:
                w.mul_(m)
        ends.append(loss_by_sample(model, x))
        with torch.no_grad():
            for w, old in zip(weights, before, strict=True):
                w.copy_(old)
    return np.sqrt((((ends[0] - ends[1]) / (2 * eps)) ** 2).mean())


def test_taylor_is_the_derivative_of_the_loss():
    model = shaken(tiny("M-*-", vocab=VOCAB)).double()
    for module in model.blocks:
        module.requires_grad_(True)
    text = texts()
    x = tokens(text)
    model.train()
    scores = taylor_scores(model, text, samples=5, batch=2)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.blocks.parameters())
    assert scores.meta["samples"] == 5
    with torch.no_grad():
        out, down, o = (
            model.blocks[0].out_proj.weight,
            model.blocks[1].down_proj.weight,
            model.blocks[2].o_proj.weight,
        )
        for c in (0, 9, 63):
            assert scores.widths["intermediate"][1][c] == pytest.approx(
                by_difference(model, x, [down[:, c]]), rel=2e-3, abs=1e-6
            )
            want = by_difference(model, x, [out[:, c]])
            assert scores.widths["head_channels"][0][c // 8, c % 8] == pytest.approx(
                want, rel=2e-3, abs=1e-6
            )
        for h in range(4):
            want = by_difference(model, x, [o[:, 8 * h : 8 * h + 8]])
            assert scores.widths["q_heads"][2][h] == pytest.approx(want, rel=2e-3, abs=1e-6)
        for i, w in enumerate((out, down, o)):
            assert scores.blocks[i] == pytest.approx(by_difference(model, x, [w]), rel=2e-3)
        writers = [model.embeddings.weight.t(), out, down, o, model.blocks[3].down_proj.weight]
        for k in (0, 31):
            assert scores.hidden[k] == pytest.approx(
                by_difference(model, x, [w[k] for w in writers]), rel=2e-3, abs=1e-6
            )


def test_taylor_of_one_sample_is_weight_times_gradient():
    model = shaken(tiny("-M", vocab=VOCAB))
    text = texts(1)
    x = tokens(text)
    scores = taylor_scores(model, text, samples=1, batch=1)
    logits = model(x)[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten()).backward()
    down, out = model.blocks[0].down_proj.weight, model.blocks[1].out_proj.weight
    for got, w in (
        (scores.widths["intermediate"][0], down),
        (scores.widths["head_channels"][1].ravel(), out),
    ):
        assert np.allclose(got, (w * w.grad).sum(0).abs().detach().numpy(), rtol=1e-3, atol=1e-7)
    assert scores.blocks[0] == pytest.approx(abs((down * down.grad).sum().item()), rel=1e-3)
