"""The grid's bounds: exact shares, legal widths and heads, the paper's own widths."""

from fractions import Fraction
from math import ceil

import pytest
from conftest import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_architectures import fields

from minipuzzle.errors import UserError
from minipuzzle.families.nemotron_h import architecture
from minipuzzle.kinds import FeedForward, Mamba2
from minipuzzle.space import LEVELS, Level, Shape, bounds, check_uniform, levels, shape_architecture


def test_the_papers_grid_of_widths_and_our_counts():
    space = bounds(architecture(fields("56B")), LEVELS[0], multiple=64, mamba_heads=False)
    assert space.intermediate == tuple(range(24576, 32769, 1024))
    assert (space.attention, space.mlp, space.mamba, space.heads) == (
        (5, 10),
        (45, 54),
        (45, 54),
        (256,),
    )
    assert space.points == 6 * 10 * 10 * 9


@settings(deadline=None)
@given(
    percent=st.integers(0, 100),
    width=st.integers(1, 600),
    multiple=st.sampled_from([1, 8, 64]),
    groups=st.integers(1, 4),
    per_group=st.integers(1, 8),
    blocks=st.integers(1, 60),
)
def test_every_choice_is_legal_and_no_share_is_overdrawn(
    percent, width, multiple, groups, per_group, blocks
):
    parent = tiny("M-*" * blocks, intermediate=width, groups=groups, heads=groups * per_group)
    level = Level(
        attention=percent / 100, others=percent / 100, width=percent / 100, hidden=percent / 100
    )
    space = bounds(parent, level, multiple=multiple, mamba_heads=True)
    least = Fraction(percent, 100)
    assert space.attention == space.mlp == space.mamba == (ceil(blocks * least), blocks)
    assert list(space.intermediate) == sorted(set(space.intermediate))
    assert space.intermediate[-1] == width
    assert all(
        w == width or (w % multiple == 0 and w >= 1 and w >= width * least)
        for w in space.intermediate
    )
    # Heads: whole groups, each number from the least that covers the share to all, and never none.
    assert space.heads == tuple(
        groups * k for k in range(1, per_group + 1) if k >= per_group * least
    )


def test_mamba_heads_stay_whole_unless_asked():
    assert bounds(tiny(), LEVELS[1], multiple=8, mamba_heads=False).heads == (8,)
    assert bounds(tiny(), LEVELS[1], multiple=8, mamba_heads=True).heads == (4, 6, 8)


def test_a_parent_without_a_kind_has_one_choice_for_it():
    space = bounds(tiny("**"), LEVELS[0], multiple=8, mamba_heads=True)
    assert (space.mlp, space.mamba, space.intermediate, space.heads, space.points) == (
        (0, 0),
        (0, 0),
        (0,),
        (0,),
        2,
    )


def test_a_shape_becomes_an_architecture():
    shape = Shape(attention=1, mlp=2, mamba=1, intermediate=24, heads=4, hidden=16)
    made = shape_architecture(tiny("M-M*-M-"), shape)
    assert made.pattern == "M-*-"
    assert {b.intermediate for b in made.blocks if isinstance(b, FeedForward)} == {24}
    assert {b.heads for b in made.blocks if isinstance(b, Mamba2)} == {4}
    assert {made.hidden, *(b.hidden for b in made.blocks)} == {16}


def test_least_replaces_only_what_it_names():
    changed = levels(["width=55%", "attention=0%"])
    assert [(level.attention, level.width) for level in changed] == [(0.0, 0.55)] * len(LEVELS)
    assert [level.others for level in changed] == [level.others for level in LEVELS]
    for wrong in ("width=101%", "depth=50%", "width=50", "width", "width=.%"):
        with pytest.raises(UserError):
            levels([wrong])


def test_blocks_of_different_sizes_have_no_global_width():
    check_uniform(tiny())
    other = tiny(intermediate=32).blocks[1]
    with pytest.raises(UserError, match="same sizes"):
        check_uniform(type(tiny())(vocab_size=16, hidden=32, blocks=(*tiny().blocks, other)))
