"""Scores against computing the same thing the long way."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import shaken, shape_of, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from minipuzzle.arch import Selection
from minipuzzle.errors import UserError
from minipuzzle.importance import magnitude_scores, random_scores
from minipuzzle.kinds import Mamba2
from minipuzzle.nas.select import damage, select
from minipuzzle.scores import Scores

VOCAB = 61


def test_scores_round_trip(tmp_path):
    scores = random_scores(tiny(vocab=VOCAB), 0)
    curve = {1: {"intermediate": (np.array([8, 16]), np.array([2.0, 1.0]))}}
    widths = {**scores.widths, "q_heads": {3: np.ones(4)}}
    scores = replace(scores, widths=widths, hidden=np.arange(32.0), curves=curve)
    scores.save(tmp_path / "s.safetensors")
    again = Scores.load(tmp_path / "s.safetensors")
    assert (again.blocks == scores.blocks).all()
    assert (again.hidden == scores.hidden).all()
    assert again.meta == scores.meta
    assert set(again.widths) == set(scores.widths)
    for name, found in scores.widths.items():
        assert all((again.widths[name][i] == s).all() for i, s in found.items())
    sizes, errors = again.curves[1]["intermediate"]
    assert sizes.tolist() == [8, 16]
    assert sizes.dtype == np.int64
    assert errors.tolist() == [2.0, 1.0]
    with pytest.raises(UserError, match="no scores"):
        Scores.load(tmp_path / "none")


def test_kv_heads_go_with_their_query_heads():
    block = tiny("*", q_heads=8, kv_heads=4).blocks[0]
    kept = block.widths[0].keep(block, np.array([1.0, 1, 3, 0, 0, 2, 0.5, 0.5]), 2)
    assert kept == {"kv_heads": (1, 2), "q_heads": (2, 3, 4, 5)}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_heads_stay_equal_in_each_group_and_are_the_best(groups, per_group, width, seed):
    block = Mamba2(hidden=8, heads=groups * per_group, head_dim=width, groups=groups, state=4)
    of_heads, of_channels = block.widths[:2]
    channels = np.random.default_rng(seed).random((groups * per_group, width))
    for count in range(groups, groups * per_group + 1, groups):
        kept = of_heads.keep(block, channels, count)["heads"]
        strength = np.sqrt((channels**2).sum(1))
        for g in range(groups):
            mine = [h for h in kept if h // per_group == g]
            best = sorted(range(g * per_group, (g + 1) * per_group), key=lambda h: -strength[h])[
                : count // groups
            ]
            assert sorted(best) == mine
    assert len(of_channels.keep(block, channels, 1)["head_dim"]) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.data())
def test_select_keeps_the_best_of_each_kind(seed, data):
    parent = tiny("M-M*-M-*", vocab=VOCAB)
    scores = random_scores(parent, seed)
    shape = shape_of(
        attention=data.draw(st.integers(0, 2)),
        mlp=data.draw(st.integers(0, 3)),
        mamba=data.draw(st.integers(0, 3)),
        intermediate=data.draw(st.integers(1, 64)),
        heads=data.draw(st.sampled_from([2, 4, 6, 8])),
        hidden=32,
    )
    selection = select(parent, scores, shape)
    student = selection.student(parent)
    assert [student.count(k) for k in ("attention", "mlp", "mamba")] == [
        shape.plain()[kind] for kind in ("attention", "mlp", "mamba")
    ]
    for kind in ("attention", "mlp", "mamba"):
        mine = [scores.blocks[i] for i in parent.indices(kind) if i in selection.kept_blocks]
        others = [scores.blocks[i] for i in parent.indices(kind) if i not in selection.kept_blocks]
        assert not mine or not others or min(mine) >= max(others)
    for i, kept in enumerate(selection.blocks):
        if kept and "intermediate" in kept:
            values = scores.widths["intermediate"][i]
            brute = sorted(np.argsort(-values, kind="stable")[: shape.plain()["intermediate"]])
            assert list(kept["intermediate"]) == brute
    whole = damage(parent, scores, Selection.everything(parent))
    assert whole == 0
    assert damage(parent, scores, selection) >= 0


def test_baselines():
    model = shaken(tiny(vocab=VOCAB))
    magnitude, random = magnitude_scores(model), random_scores(model.architecture, 3)
    assert (random.blocks == random_scores(model.architecture, 3).blocks).all()
    rows = model.blocks[1].up_proj.weight.detach().double().norm(dim=1)
    assert np.allclose(magnitude.widths["intermediate"][1], rows.numpy())
    assert magnitude.widths["head_channels"][0].shape == (8, 8)
