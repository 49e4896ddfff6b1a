"""Scores against computing the same thing the long way."""

import numpy as np
import pytest
import torch
from conftest import shaken, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from minipuzzle.arch import Selection
from minipuzzle.arch.ranking import top_channels, top_heads
from minipuzzle.artifacts import Scores
from minipuzzle.data import pack
from minipuzzle.errors import UserError
from minipuzzle.importance import magnitude_scores, random_scores, removal_errors, score
from minipuzzle.importance.widths import WidthScores, add_batch
from minipuzzle.recipe import ScoreSettings
from minipuzzle.search.select import damage, select
from minipuzzle.space import Shape

VOCAB = 61


def tokens(n=3, length=20):
    return torch.randint(0, VOCAB, (n, length), generator=torch.Generator().manual_seed(0))


def test_block_scores_equal_masking_each_block():
    model = shaken(tiny(vocab=VOCAB))
    x = tokens()
    got = removal_errors(model, x)
    with torch.no_grad():
        full = model.hidden_states(x)
        for i in range(len(model.blocks)):
            model.set_mask(Selection(blocks=tuple(None if j == i else {} for j in range(len(model.blocks)))))
            want = (model.hidden_states(x) - full).square().mean().item()
            assert got[i] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("ffn", ["pre", "post"])
def test_width_scores_equal_the_formula(ffn):
    model = shaken(tiny(vocab=VOCAB))
    x = tokens()
    widths = WidthScores(model, ffn)
    with widths:
        for row in x.split(2):
            add_batch(widths, row)
    intermediate, heads = widths.scores()
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            inputs = block.norm(model.run_blocks(model.embed(x), None, 0, i))
            if i in intermediate:
                activation = block.up_proj(inputs)
                activation = activation if ffn == "pre" else torch.relu(activation) ** 2
                want = activation.abs().mean(1).square().sum(0).sqrt()
                assert np.allclose(intermediate[i], want.numpy(), rtol=1e-4)
            if i in heads:
                b = model.architecture.blocks[i]
                rows = block.in_proj.weight[b.inner : 2 * b.inner]
                want = (inputs @ rows.t()).abs().mean(1).square().sum(0).sqrt().view(b.heads, b.head_dim)
                assert np.allclose(heads[i], want.numpy(), rtol=1e-4)
    assert not model.blocks[1].up_proj._forward_hooks


def test_importance_hooks_leave_nothing_and_scores_round_trip(tmp_path):
    model = shaken(tiny(vocab=VOCAB))
    blocks = pack([tokens(8).numpy().astype("uint32").ravel()], block_length=20, vocab_size=VOCAB, seed=0, fingerprint="t",
                  text_bytes=1)  # fmt: skip
    scores = score(model, blocks, ScoreSettings(samples=8, block_samples=3, batch=2), identity="x", partial=tmp_path / "p")
    scores.save(tmp_path / "s.safetensors")
    again = Scores.load(tmp_path / "s.safetensors")
    assert (again.blocks == scores.blocks).all()
    assert again.meta == scores.meta
    assert all((again.head_channels[i] == scores.head_channels[i]).all() for i in scores.head_channels)
    with pytest.raises(UserError, match="no scores"):
        Scores.load(tmp_path / "none")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_heads_stay_equal_in_each_group_and_are_the_best(groups, per_group, width, seed):
    channels = np.random.default_rng(seed).random((groups * per_group, width))
    for count in range(groups, groups * per_group + 1, groups):
        kept = top_heads(channels, count, groups)
        strength = np.sqrt((channels**2).sum(1))
        for g in range(groups):
            mine = [h for h in kept if h // per_group == g]
            best = sorted(range(g * per_group, (g + 1) * per_group), key=lambda h: -strength[h])[: count // groups]
            assert sorted(best) == mine
    assert len(top_channels(channels, 1)) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.data())
def test_select_keeps_the_best_of_each_kind(seed, data):
    parent = tiny("M-M*-M-*", vocab=VOCAB)
    scores = random_scores(parent, seed)
    shape = Shape(
        attention=data.draw(st.integers(0, 2)), mlp=data.draw(st.integers(0, 3)), mamba=data.draw(st.integers(0, 3)),
        intermediate=data.draw(st.integers(1, 64)), heads=data.draw(st.sampled_from([2, 4, 6, 8])),
    )  # fmt: skip
    selection = select(parent, scores, shape)
    student = selection.student(parent)
    assert [student.count(k) for k in ("attention", "mlp", "mamba")] == [shape.attention, shape.mlp, shape.mamba]
    for kind in ("attention", "mlp", "mamba"):
        mine = [scores.blocks[i] for i in parent.indices(kind) if i in selection.kept_blocks]
        others = [scores.blocks[i] for i in parent.indices(kind) if i not in selection.kept_blocks]
        assert not mine or not others or min(mine) >= max(others)
    for i, kept in enumerate(selection.blocks):
        if kept and "intermediate" in kept:
            values = scores.intermediate[i]
            brute = sorted(np.argsort(-values, kind="stable")[: shape.intermediate])
            assert list(kept["intermediate"]) == brute
    whole = damage(parent, scores, Selection.everything(parent))
    assert whole == 0
    assert damage(parent, scores, selection) >= 0


def test_baselines():
    model = shaken(tiny(vocab=VOCAB))
    magnitude, random = magnitude_scores(model), random_scores(model.architecture, 3)
    assert (random.blocks == random_scores(model.architecture, 3).blocks).all()
    rows = model.blocks[1].up_proj.weight.detach().double().norm(dim=1)
    assert np.allclose(magnitude.intermediate[1], rows.numpy())
    assert magnitude.head_channels[0].shape == (8, 8)
