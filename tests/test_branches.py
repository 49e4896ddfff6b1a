"""Selections measured in one pass: each to the last bit what it is alone, for fewer blocks."""

import weakref

import pytest
import torch
from conftest import shaken, tiny
from helpers import TEXT
from torch import nn

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.errors import UserError
from minipuzzle.metrics import answers, measure, measure_each
from minipuzzle.model.branches import forks_held

KEPT = {"intermediate": (0, 1, 2, 5)}
PATTERN = "M-M*-"


def chosen():
    """Selections of PATTERN that part at the hidden size, at widths, at drops, and never."""
    whole = ({},) * 5
    return [
        Selection(blocks=whole),
        Selection(blocks=(*whole[:4], None)),
        Selection(blocks=({}, KEPT, {}, {}, {})),
        Selection(blocks=(*whole[:3], None, {})),
        Selection(blocks=({}, KEPT, {}, {}, KEPT)),
        Selection(blocks=whole, hidden=tuple(range(24))),
        Selection(blocks=(*whole[:4], None)),  # the second again
        Selection(blocks=(*whole[:4], None), hidden=tuple(range(24))),
    ]


@pytest.fixture(scope="module")
def text():
    return load_blocks(TEXT, Tokenizer.load(embedded.teacher_path()), block_length=32).take(5)


def test_each_is_what_it_is_alone(text):
    model = shaken(tiny(PATTERN))
    said = answers(model, text, batch=2)
    together = measure_each(model, chosen(), text, batch=2, teacher=said)
    for selection, found in zip(chosen(), together, strict=True):
        with model.masked(selection):
            assert found == measure(model, text, batch=2, teacher=said)
    assert len({found.loss for found in together}) == 7
    assert model._hidden_mask is None
    assert model.final_norm.kept is None
    assert all(block.kept is None for block in model.blocks)


def test_shared_blocks_run_once():
    """By hand. Whole hidden size: 0 for all; 1 and 2 whole and narrow (2 + 2); of the whole, 3 of
    two kinds (kept, dropped: 1), 4 after it (kept, dropped, kept: 2); of the narrow, 3 once and 4
    whole and narrow (1 + 2). Cut: 0 to 3, and 4 of one.
    """
    model = shaken(tiny(PATTERN))
    branches = model.branches(chosen())
    ran = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: ran.append(module))
    branches_taken = []
    model.hidden_states_of_each(
        branches, torch.zeros(1, 8, dtype=torch.int64), lambda n, h: branches_taken.append(n)
    )
    assert sorted(branches_taken) == list(range(8))
    assert branches.count == len(ran) == (1 + 4 + 1 + 2 + 1 + 2) + (4 + 1)
    assert sum(len(s.kept_blocks) for s in chosen()) == 5 * 8 - 4


def test_few_streams_wait(monkeypatch):
    """Selections that drop one block each part at every block: a stream that waits at each would be
    20; where each time one goes on with all others none but the last two must.
    """
    model = shaken(tiny("-" * 20))
    whole = ({},) * 20
    selections = [Selection(blocks=(*whole[:i], None, *whole[i + 1 :])) for i in range(20)]
    alive, most = set(), 0

    class Counted(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, h, context):
            nonlocal most
            result = self.block(h, context)
            alive.add(id(result))
            weakref.finalize(result, alive.discard, id(result))
            most = max(most, len(alive))
            return result

    branches = model.branches(selections)
    model.blocks = nn.ModuleList(Counted(block) for block in model.blocks)
    model.hidden_states_of_each(
        branches, torch.zeros(1, 4, dtype=torch.int64), lambda number, hidden: None
    )
    assert [forks_held(n) for n in (0, 1, 2, 3, 4, 16, 20)] == [0, 0, 1, 1, 2, 4, 4]
    assert most <= 2 + forks_held(20)
    assert branches.count == 20 * 19 // 2 + 19  # one by one 20 * 19


def test_a_selection_that_fits_no_model_is_refused():
    with pytest.raises(UserError, match="does not describe"):
        shaken(tiny("M-")).branches([Selection(blocks=({},))])
