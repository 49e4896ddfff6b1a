"""What a selection may say, and the hidden size that it names."""

from dataclasses import replace

import pytest
from conftest import tiny
from search_problems import problem

from minipuzzle.arch import Selection
from minipuzzle.errors import UserError
from minipuzzle.nas.choices import combinations, make_choices
from minipuzzle.nas.damage import hidden_damage


def test_kv_heads_without_their_query_heads_are_no_selection():
    attention = tiny("*", q_heads=4, kv_heads=2)
    with pytest.raises(UserError, match="query heads"):
        Selection(blocks=({"kv_heads": (0,)},)).student(attention)
    with pytest.raises(UserError, match="query heads"):
        Selection(blocks=({"q_heads": (0, 1)},)).student(attention)
    student = Selection(blocks=({"kv_heads": (1,), "q_heads": (2, 3)},)).student(attention)
    assert (student.blocks[0].q_heads, student.blocks[0].kv_heads) == (2, 1)
    assert Selection(blocks=({"q_heads": (0, 2)},)).student(attention).blocks[0].q_heads == 2


def test_heads_of_each_group_are_equally_many():
    mamba = tiny("M", heads=8, groups=2)
    for uneven in ((0, 1, 4), (0, 4, 5, 6), (0, 1)):
        with pytest.raises(UserError, match="equally many"):
            Selection(blocks=({"heads": uneven},)).student(mamba)
    assert Selection(blocks=({"heads": (0, 5)},)).student(mamba).blocks[0].heads == 2


def test_a_selection_names_the_hidden_size_and_states_come_back():
    parent, scores, space, options, prices = problem(
        "M-*", hidden=True, per_block_heads=True, kv_heads=True
    )
    narrow = prices.at_hidden(24)
    of, left = lambda block: narrow.of(replace(block, hidden=24)), narrow.limits - narrow.base
    choices = make_choices(parent, scores, space, options, of, left, narrow.names, 24)
    assert choices.hidden_damage == pytest.approx(hidden_damage(scores, 24))
    assert len(set(choices.couplings[:2])) == 2
    for state in combinations(choices)[::7]:
        selection = choices.selection(state)
        assert len(selection.hidden) == 24
        assert choices.state(selection) == state
        assert (choices.cost(state) + narrow.base)[0] == selection.student(parent).parameters
    assert choices.state(replace(selection, hidden=None)) is None
    assert choices.options[2] == ((2,), (1,))  # KV heads that divide those of the parent
    assert (
        choices.state(Selection(blocks=({}, {"intermediate": (0,)}, {}), hidden=choices.hidden))
        is None
    )
