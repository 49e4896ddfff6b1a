"""What a candidate keeps and what that is predicted to do, against brute force."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import shape_of, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_parents import SPACE, every_shape, scored

from minipuzzle.arch import Selection
from minipuzzle.kinds import Mamba2
from minipuzzle.nas.select import damage, select
from minipuzzle.space import shape_architecture


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    ties=st.booleans(),
    shape=st.sampled_from(sorted(every_shape(SPACE))),
)
def test_what_is_kept_sums_to_the_most(seed, ties, shape):
    parent = tiny("M-M*-M-", vocab=48, heads=8, intermediate=64)
    scores = scored(parent, seed, ties)
    chosen = select(parent, scores, shape)
    student = chosen.student(parent)  # raises where groups are uneven
    assert student == shape_architecture(
        replace(parent, blocks=tuple(parent.blocks[i] for i in chosen.kept_blocks)), shape
    )
    for kind, count in shape.counts:
        best = max(
            sum(scores.blocks[list(c)]) for c in itertools.combinations(parent.indices(kind), count)
        )
        kept = [i for i in chosen.kept_blocks if parent.blocks[i].kind == kind]
        assert sum(scores.blocks[kept]) == pytest.approx(best)
    if shape.hidden < parent.hidden:
        assert sum(scores.hidden[list(chosen.hidden)]) == pytest.approx(
            sum(sorted(scores.hidden)[-shape.hidden :])
        )
    for i in chosen.kept_blocks:
        if "intermediate" in (kept_axes := chosen.blocks[i]):
            channels = scores.widths["intermediate"][i]
            assert sum(channels[list(kept_axes["intermediate"])]) == pytest.approx(
                sum(sorted(channels)[-dict(shape.sizes)["intermediate"] :])
            )


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), per_group=st.integers(1, 4), width=st.integers(1, 5))
def test_heads_by_group_and_channels_for_all_heads(seed, per_group, width):
    groups, heads, dim = 2, 8, 5
    block = Mamba2(hidden=8, heads=heads, head_dim=dim, groups=groups, state=4)
    of_heads, of_channels, _ = block.widths
    channels = np.random.default_rng(seed).random((heads, dim))
    kept = of_channels.keep(block, channels, width)["head_dim"]
    norms = [float(np.linalg.norm(channels[:, d])) for d in range(dim)]
    assert sorted(norms[d] for d in kept) == sorted(norms)[-width:]
    chosen = of_heads.keep(block, channels[:, list(kept)], per_group * groups)["heads"]
    strength = [float(np.linalg.norm(channels[h, list(kept)])) for h in range(heads)]
    for first in (0, 4):
        mine = [h for h in chosen if first <= h < first + 4]
        options = itertools.combinations(range(first, first + 4), per_group)
        assert sum(strength[h] for h in mine) == pytest.approx(
            max(sum(strength[h] for h in o) for o in options)
        )
        assert len(mine) == per_group
    assert list(chosen) == sorted(chosen)


def test_damage_adds_up_what_is_dropped_and_cut():
    parent = tiny("M-M*-M-")
    scores = scored(parent)
    assert damage(parent, scores, Selection.everything(parent)) == 0
    squares = scores.widths["intermediate"][1] ** 2
    best = np.argsort(-squares)[:16]
    kept = ({}, {"intermediate": tuple(sorted(best.tolist()))}, None, {}, {}, {}, {})
    expected = scores.blocks[2] + scores.blocks[1] * (1 - squares[best].sum() / squares.sum())
    assert damage(parent, scores, Selection(blocks=kept)) == pytest.approx(expected)


def test_a_block_whose_channels_all_score_zero_is_narrowed_for_nothing():
    parent = tiny("M-")
    scores = scored(parent)
    scores.widths["intermediate"][1][:] = 0
    shape = shape_of(attention=0, mlp=1, mamba=1, intermediate=8, heads=8, hidden=32)
    assert damage(parent, scores, select(parent, scores, shape)) == 0
