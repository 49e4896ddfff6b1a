"""Scores beside a model of another shape, and beside another search: refused, and never read past
their end.
"""

from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny

from minipuzzle.arch import Selection
from minipuzzle.nas.fit import misfit
from minipuzzle.report import removed
from minipuzzle.scores import Scores

MODEL = tiny("M-*")
FITS = Scores(
    blocks=np.ones(3),
    hidden=np.ones(32),
    layers=np.ones(3),
    meta={},
    widths={
        "q_heads": {2: np.ones(4)},
        "intermediate": {1: np.ones(64)},
        "head_channels": {0: np.ones((8, 8))},
    },
    curves={1: {"intermediate": (np.array([8, 32]), np.array([2.0, 1.0]))}},
)
OTHERS = {
    "blocks": np.ones(4),
    "hidden": np.ones(31),
    "layers": np.ones(2),
    "q_heads": {2: np.ones(5)},
    "intermediate": {1: np.ones(63)},
    "head_channels": {0: np.ones((4, 8))},
    "curves": {1: {"intermediate": (np.array([8, 64]), np.array([2.0, 1.0]))}},
}


def other(name, value):
    """FITS with another value of a field, or of one sort of width scores."""
    if name in FITS.widths:
        return replace(FITS, widths={**FITS.widths, name: value})
    return replace(FITS, **{name: value})


def test_scores_that_fit():
    assert misfit(FITS, MODEL) == ""
    assert misfit(replace(other("q_heads", {}), curves={}, hidden=None, layers=None), MODEL) == ""


@pytest.mark.parametrize("name", OTHERS)
def test_scores_that_do_not_fit(name):
    assert misfit(other(name, OTHERS[name]), MODEL)
    if name in ("intermediate", "head_channels"):
        assert misfit(other(name, {}), MODEL)
    if isinstance(OTHERS[name], dict):
        whole = FITS.widths.get(name, FITS.curves)
        swapped = {(block + 1) % 3: values for block, values in whole.items()}
        assert misfit(other(name, swapped), MODEL)


SELECTION = Selection(blocks=({"heads": (0, 7)}, {"intermediate": (0, 63)}, None), hidden=(0, 31))


@pytest.mark.parametrize(
    "beyond",
    [
        replace(SELECTION, blocks=({"heads": (0, 8)}, *SELECTION.blocks[1:])),
        replace(SELECTION, blocks=(SELECTION.blocks[0], {"intermediate": (64,)}, None)),
        replace(SELECTION, hidden=(32,)),
    ],
)
def test_a_selection_beyond_the_scores(beyond):
    assert removed.misfit("M-*", FITS, SELECTION) == ""
    assert removed.misfit("M-*", FITS, beyond)


def test_a_selection_of_other_scores():
    assert removed.misfit("M-*-", FITS, replace(SELECTION, blocks=({},) * 4))
    assert removed.misfit("-M*", FITS, replace(SELECTION, blocks=({},) * 3))
    assert removed.misfit("M-*", replace(FITS, hidden=None), SELECTION)


def test_scores_of_zero_share_nothing():
    """What is removed of nothing is 0, not a division by it."""
    zero = replace(
        FITS,
        hidden=np.zeros(32),
        widths={
            **FITS.widths,
            "intermediate": {1: np.zeros(64)},
            "head_channels": {0: np.zeros((8, 8))},
        },
    )
    assert all(row.lost in (None, 0.0) for row in removed.removals("M-*", zero, SELECTION))
