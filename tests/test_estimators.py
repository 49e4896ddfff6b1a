"""Estimators against plain float64 numpy on captured activations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import shaken, tiny
from scored_texts import VOCAB, texts, tokens

from minipuzzle.arch import Selection
from minipuzzle.errors import UserError
from minipuzzle.importance import (
    Collector,
    HiddenCollector,
    check_streamed,
    magnitude_scores,
    random_scores,
    streamed,
    taylor_scores,
)
from minipuzzle.importance.collect import footprint_hooks
from minipuzzle.kinds import Attention, DeltaNet, FeedForward, Mamba2
from minipuzzle.model import HybridLM
from minipuzzle.registry import ESTIMATORS

KEYS = {
    Mamba2: "head_channels",
    DeltaNet: "value_heads",
    FeedForward: "intermediate",
    Attention: "q_heads",
}
HEADS = {Attention: lambda block: block.q_heads, DeltaNet: lambda block: block.heads}


def activations(model, x):
    """For each block what enters its parts: "norm" LN(X), "first" the first projection's output,
    "last" y; float64.
    """
    found = []
    with torch.no_grad():
        for i, (block, module) in enumerate(
            zip(model.architecture.blocks, model.blocks, strict=True)
        ):
            got = {}
            first = {Mamba2: "in_proj", FeedForward: "up_proj", Attention: "q_proj"}[type(block)]
            last = {Mamba2: "out_proj", FeedForward: "down_proj", Attention: "o_proj"}[type(block)]
            handles = [
                module.norm.register_forward_hook(
                    lambda m, i, o, g=got: g.update(norm=o.double().numpy())
                ),
                getattr(module, first).register_forward_hook(
                    lambda m, i, o, g=got: g.update(first=o.double().numpy())
                ),
                getattr(module, last).register_forward_pre_hook(
                    lambda m, i, g=got: g.update(last=i[0].double().numpy())
                ),
            ]
            model.run_blocks(model.run_blocks(model.embed(x), None, 0, i), None, i, i + 1)
            for handle in handles:
                handle.remove()
            got["weight"] = getattr(module, last).weight.detach().double().numpy()
            found.append(got)
    return found


def minitron(a):
    return np.sqrt((np.abs(a).mean(1) ** 2).sum(0))


def by_head(a, heads):
    return a.reshape(*a.shape[:-1], heads, -1)


def expected(estimator, block, got):
    y, norms = got["last"], np.linalg.norm(got["weight"], axis=0)
    heads = HEADS.get(type(block), lambda block: 0)(block)  # that are scored as one
    if estimator in ("minitron", "minitron-pre"):
        if isinstance(block, Mamba2):
            scores = minitron(got["first"][..., block.inner : 2 * block.inner])
        elif heads:
            scores = minitron(np.linalg.norm(by_head(y, heads), axis=-1))
        else:
            scores = minitron(y if estimator == "minitron" else got["first"])
    elif estimator == "flap":
        scores = y.reshape(-1, y.shape[-1]).var(0, ddof=1) * norms**2
        scores = scores.reshape(heads, -1).sum(1) if heads else scores
    elif estimator == "wanda":
        scores = np.abs(got["weight"]).mean(0) * np.sqrt((y**2).mean((0, 1)))
        scores = scores.reshape(heads, -1).sum(1) if heads else scores
    elif heads:
        parts = np.moveaxis(by_head(y, heads), 2, 0)
        pairs = zip(parts, np.split(got["weight"], heads, axis=1), strict=True)
        scores = np.array([np.linalg.norm(p @ c.T, axis=-1).mean() for p, c in pairs])
    else:
        scores = np.abs(y).mean((0, 1)) * norms
    return scores.reshape(block.score_shapes[block.widths[0].score])


@pytest.mark.parametrize("estimator", ["minitron", "minitron-pre", "flap", "contribution", "wanda"])
def test_collectors_equal_numpy_whatever_the_batches(estimator):
    model = shaken(tiny("M-*M", vocab=VOCAB))
    x = tokens(texts())
    want = activations(model, x)
    for i, (block, module) in enumerate(zip(model.architecture.blocks, model.blocks, strict=True)):
        saved = None
        with torch.no_grad():
            for part in x.split(
                2
            ):  # a new collector goes on from saved sums: they are all its state
                collector = Collector(block, module, estimator)
                for name in saved or {}:
                    collector.sums[name] = saved[name]
                with collector:
                    model.hidden_states(part)
                saved = {name: value.copy() for name, value in collector.sums.items()}
                assert all(value.dtype == np.float64 for value in saved.values())
        scores = collector.scores()
        assert list(scores) == list(block.score_shapes)
        assert np.allclose(
            scores[KEYS[type(block)]], expected(estimator, block, want[i]), rtol=2e-5
        )
        before = {name: value.copy() for name, value in collector.sums.items()}
        model.hidden_states(x)  # hooks are gone
        assert all((collector.sums[name] == before[name]).all() for name in before)


def test_sums_are_copied_once_whatever_the_batches(monkeypatch):
    """A GPU waits for each copy."""
    model = shaken(tiny("M-*", vocab=VOCAB))
    block, module = model.architecture.blocks[1], model.blocks[1]
    copies, copy = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: copies.append(x) or copy(x))
    with torch.no_grad(), Collector(block, module, "flap") as one, HiddenCollector(block, module):
        for part in tokens(texts()).split(2):
            model.hidden_states(part)
        assert not copies
    assert len(copies) == len(one.sums) + 1


def test_minitron_is_the_formula_of_modelopts_l2_norm_hook():
    """Sequence first, as Megatron has it: |input of fc2|.mean(0), squared, summed over batches,
    root at the end.
    """
    model = shaken(tiny("-", vocab=VOCAB))
    x = tokens(texts())
    total = torch.zeros(64)

    def hook(module, inputs):
        total.add_(inputs[0].transpose(0, 1).float().abs().mean(dim=0).pow(2).sum(dim=0))

    model.blocks[0].down_proj.register_forward_pre_hook(hook)
    with (
        torch.no_grad(),
        Collector(model.architecture.blocks[0], model.blocks[0], "minitron") as collector,
    ):
        for part in x.split(2):
            model.hidden_states(part)
    assert np.allclose(collector.scores()["intermediate"], total.pow(0.5).numpy(), rtol=1e-5)


def test_hidden_channels_add_up_over_blocks():
    model = shaken(tiny("M-*", vocab=VOCAB))
    x = tokens(texts())
    collectors = [
        HiddenCollector(b, m) for b, m in zip(model.architecture.blocks, model.blocks, strict=True)
    ]
    for collector in collectors:
        with torch.no_grad(), collector:
            for part in x.split(3):
                model.hidden_states(part)
    want = sum(minitron(got["norm"]) for got in activations(model, x))
    assert np.allclose(sum(c.scores()["hidden"] for c in collectors), want, rtol=1e-5)


def test_flap_ignores_what_never_changes_and_contribution_does_not():
    """A constant channel has no variance: FLAP moves it into a bias. Puzzle's contribution counts
    it.
    """
    model = shaken(tiny("-", vocab=VOCAB, intermediate=4))
    block, module = model.architecture.blocks[0], model.blocks[0]
    scores = {}
    for estimator in ("flap", "contribution"):
        with Collector(block, module, estimator) as collector, torch.no_grad():
            y = torch.rand(3, 7, 4)
            y[..., 1] = 5.0
            module.down_proj(y)
        scores[estimator] = collector.scores()["intermediate"]
    assert scores["flap"].argmin() == 1
    assert scores["flap"][1] == pytest.approx(0, abs=1e-12)
    assert scores["contribution"].argmax() == 1


def test_heads_and_groups_keep_their_order():
    """Channel 24 h + c of the projection is channel c of head h, so the groups of Width.keep
    are true groups.
    """
    model = shaken(tiny("M", vocab=VOCAB))
    block, module = model.architecture.blocks[0], model.blocks[0]
    with torch.no_grad():
        x_rows = module.in_proj.weight[block.inner : 2 * block.inner].view(
            block.heads, block.head_dim, -1
        )
        x_rows[5] *= 100
        module.out_proj.weight.view(-1, block.heads, block.head_dim)[:, 5] *= 100
    for estimator in ("minitron", "flap", "contribution", "magnitude"):
        with torch.no_grad(), Collector(block, module, estimator) as collector:
            model.hidden_states(tokens(texts()))
        channels = collector.scores()["head_channels"]
        assert channels.shape == (8, 8)
        assert np.square(channels).sum(1).argmax() == 5
        kept = block.searched[0].keep(block, channels, 4)["heads"]
        assert 5 in kept
        assert [h // 4 for h in kept] == [0, 0, 1, 1]
        Selection(blocks=({"heads": kept},)).student(model.architecture)


def test_baselines_cover_every_axis():
    model = shaken(tiny("M-*", vocab=VOCAB))
    parent, modules = model.architecture, model.blocks
    magnitude, random = magnitude_scores(model), random_scores(parent, 3)
    for scores in (magnitude, random):
        assert scores.blocks.shape == (3,)
        assert scores.hidden.shape == (32,)
        assert (
            scores.widths["head_channels"][0].shape,
            scores.widths["intermediate"][1].shape,
            scores.widths["q_heads"][2].shape,
        ) == ((8, 8), (64,), (4,))
    assert (random.widths["q_heads"][2] == random_scores(parent, 3).widths["q_heads"][2]).all()
    weights = {
        name: p.detach().double().numpy() for name, p in model.named_parameters() if p.ndim == 2
    }
    total = sum(
        (w**2).sum(
            0
            if w.shape[1] == 32 and "out_proj" not in n and "o_proj" not in n and "down" not in n
            else 1
        )
        for n, w in weights.items()
    )
    assert np.allclose(magnitude.hidden, np.sqrt(total))
    for i, key in enumerate(("head_channels", "intermediate", "q_heads")):
        with Collector(parent.blocks[i], modules[i], "magnitude") as collector:
            pass
        assert collector.sums == {}
        assert (collector.scores()[key] == magnitude.widths[key][i]).all()
        noise = [
            Collector(parent.blocks[i], modules[i], "random", seed=s).scores()[key]
            for s in (1, 1, 2)
        ]
        assert (noise[0] == noise[1]).all()
        assert (noise[0] != noise[2]).any()


def test_unknown_and_whole_model_estimators_are_refused():
    assert set(ESTIMATORS.names()) - set(streamed()) == {"taylor"}
    model = shaken(tiny("-", vocab=VOCAB))
    with pytest.raises(UserError, match="whole model") as caught:
        Collector(model.architecture.blocks[0], model.blocks[0], "taylor")
    assert "taylor_scores" in caught.value.next
    with pytest.raises(UserError, match="no estimator") as caught:
        check_streamed("minitrom")
    assert "'minitron'" in caught.value.next
    for name in streamed():
        check_streamed(name)


@pytest.mark.parametrize("estimator", streamed())
def test_footprint_hooks_run_on_meta_tensors_and_change_nothing(estimator):
    parent = tiny("M-*", vocab=VOCAB)
    model = HybridLM(parent).to("meta")
    for block, module in zip(parent.blocks, model.blocks, strict=True):
        footprint_hooks(block, estimator)(module)
        last = {Mamba2: "out_proj", FeedForward: "down_proj", Attention: "o_proj"}[type(block)]
        x = torch.empty(2, 5, getattr(module, last).in_features, device="meta")
        assert getattr(module, last)(x).shape == (2, 5, 32)
        assert module.norm(torch.empty(2, 5, 32, device="meta")).shape == (2, 5, 32)


def test_a_model_in_bf16_is_scored():
    model = shaken(replace(tiny("M-*", vocab=VOCAB))).bfloat16()
    for estimator in streamed():
        for block, module in zip(model.architecture.blocks, model.blocks, strict=True):
            with torch.no_grad(), Collector(block, module, estimator) as collector:
                model.hidden_states(tokens(texts()))
            for scores in collector.scores().values():
                assert np.isfinite(scores).all()
                assert scores.dtype == np.float64
    assert np.isfinite(taylor_scores(model, texts(), 4, 2).blocks).all()
