"""The grid's bounds: exact shares, legal widths and heads, the paper's own widths."""

from fractions import Fraction
from math import ceil

import pytest
from conftest import level_of, shape_of, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_architectures import fields

from minipuzzle.errors import UserError
from minipuzzle.families.nemotron_h import architecture
from minipuzzle.kinds import FeedForward, Mamba2
from minipuzzle.settings import SearchSettings
from minipuzzle.space import bounds, check_uniform, levels, shape_architecture


def test_the_papers_grid_of_widths_and_our_counts():
    space = bounds(architecture(fields("56B")), levels([])[0], SearchSettings())
    assert space.counts == {"attention": (5, 10), "mlp": (45, 54), "mamba": (45, 54)}
    assert space.sizes == {"intermediate": tuple(range(24576, 32769, 1024)), "heads": (256,)}
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
    level = level_of(
        attention=percent / 100, others=percent / 100, width=percent / 100, hidden=percent / 100
    )
    space = bounds(parent, level, SearchSettings(multiple=multiple, mamba_heads=True))
    widths, heads = space.sizes["intermediate"], space.sizes["heads"]
    least = Fraction(percent, 100)
    assert set(space.counts.values()) == {(ceil(blocks * least), blocks)}
    assert list(widths) == sorted(set(widths))
    assert widths[-1] == width
    assert all(w == width or (w % multiple == 0 and w >= 1 and w >= width * least) for w in widths)
    # Heads: whole groups, each number from the least that covers the share to all, and never none.
    assert heads == tuple(groups * k for k in range(1, per_group + 1) if k >= per_group * least)


def test_mamba_heads_stay_whole_unless_asked():
    level = levels([])[1]
    assert bounds(tiny(), level, SearchSettings()).sizes["heads"] == (8,)
    assert bounds(tiny(), level, SearchSettings(mamba_heads=True)).sizes["heads"] == (4, 6, 8)


def test_a_space_is_about_the_kinds_that_a_parent_has():
    space = bounds(tiny("**"), levels([])[0], SearchSettings(mamba_heads=True, kv_heads=True))
    assert (space.counts, space.sizes, space.points) == ({"attention": (1, 2)}, {}, 2)
    solver = bounds(tiny("**"), levels([])[0], SearchSettings(kv_heads=True), grid=False)
    assert solver.sizes == {"kv_heads": (1, 2)}
    assert bounds(tiny("**"), levels([])[0], SearchSettings(), grid=False).sizes == {
        "kv_heads": (2,)
    }


def test_a_shape_becomes_an_architecture():
    shape = shape_of(attention=1, mlp=2, mamba=1, intermediate=24, heads=4, hidden=16)
    made = shape_architecture(tiny("M-M*-M-"), shape)
    assert made.pattern == "M-*-"
    assert {b.intermediate for b in made.blocks if isinstance(b, FeedForward)} == {24}
    assert {b.heads for b in made.blocks if isinstance(b, Mamba2)} == {4}
    assert {made.hidden, *(b.hidden for b in made.blocks)} == {16}


def test_least_replaces_only_what_it_names():
    changed = levels(["width=55%", "attention=0%"])
    assert [(level.blocks["attention"], level.width) for level in changed] == [(0.0, 0.55)] * 3
    assert [level.blocks["mlp"] for level in changed] == [0.83, 0.5, 0.25]
    assert [level.hidden for level in changed] == [level.hidden for level in levels([])]
    for wrong in ("width=101%", "depth=50%", "width=50", "width", "width=.%"):
        with pytest.raises(UserError):
            levels([wrong])


def test_any_kind_may_be_bounded_alone_and_others_are_those_without_a_share_of_their_own():
    first = levels(["others=60%", "mamba=90%"])[0]
    assert first.blocks == {
        "attention": 0.5,
        "delta_net": 0.6,
        "mamba": 0.9,
        "mlp": 0.6,
        "moe": 0.6,
        "short_conv": 0.6,
    }
    with pytest.raises(UserError) as caught:
        levels(["experts=50%"])
    assert "attention=S% and others=S% (blocks), delta_net=S%, moe=S%, mlp=S%, mamba=S%" in str(
        caught.value
    )


def test_blocks_of_different_sizes_have_no_global_width():
    check_uniform(tiny())
    other = tiny(intermediate=32).blocks[1]
    with pytest.raises(UserError, match="same sizes"):
        check_uniform(type(tiny())(vocab_size=16, hidden=32, blocks=(*tiny().blocks, other)))
