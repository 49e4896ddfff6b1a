"""The arithmetic of studies/importance.py: cuts that are legal and distinct, predictions by
hand, correlations.
"""

import numpy as np
import pytest
from conftest import tiny
from importance_analysis import correlation, predict
from importance_cuts import best_cuts, modifications

from minipuzzle.arch import Selection
from minipuzzle.importance import random_scores


def test_modifications_are_legal_distinct_and_of_every_family():
    parent = tiny("M-M*-M-*")
    cuts = modifications(parent, 60, seed=1)
    assert len({repr(selection) for _, selection in cuts}) == 60
    assert [f for f, _ in cuts] == ["blocks"] * 15 + ["ffn"] * 15 + ["mamba"] * 15 + [
        "attention"
    ] * 15
    for family, selection in cuts:
        student = selection.student(parent)  # raises where it breaks a group
        assert student.parameters < parent.parameters
        assert (len(student.blocks) < 8) == (family == "blocks")
        touched = {parent.blocks[i].letter for i, kept in enumerate(selection.blocks) if kept}
        assert family == "blocks" or touched == {
            {"ffn": "-", "mamba": "M", "attention": "*"}[family]
        }
    assert repr(modifications(parent, 60, seed=1)) == repr(cuts)
    assert {f for f, _ in modifications(tiny("M-M"), 9, seed=0)} == {"blocks", "ffn", "mamba"}


def test_predictions_by_hand():
    parent = tiny("M-*")
    scores = random_scores(parent, 0)
    blocks = np.array([1.0, 10.0, 100.0])
    assert predict(parent, blocks, scores, Selection.everything(parent), "share") == 0
    assert predict(parent, blocks, scores, Selection(blocks=(None, {}, None)), "share") == 101
    ffn, heads, query = (
        scores.widths["intermediate"][1],
        np.linalg.norm(scores.widths["head_channels"][0], axis=1),
        scores.widths["q_heads"][2],
    )
    cut = Selection(
        blocks=(
            {"heads": (0, 4)},
            {"intermediate": tuple(range(1, 64))},
            {"kv_heads": (0,), "q_heads": (0, 1)},
        )
    )
    lost = heads.sum() - heads[0] - heads[4] + ffn[0] + query[2:].sum()
    assert predict(parent, blocks, scores, cut, "sum") == pytest.approx(lost)
    shares = [
        1 - (heads[[0, 4]] ** 2).sum() / (heads**2).sum(),
        ffn[0] ** 2 / (ffn**2).sum(),
        (query[2:] ** 2).sum() / (query**2).sum(),
    ]
    assert predict(parent, blocks, scores, cut, "share") == pytest.approx(blocks @ shares)


def test_best_cuts_keep_the_best_and_are_legal():
    parent = tiny("M-*")
    scores = random_scores(parent, 5)
    cuts = best_cuts(parent, scores, 0.5)
    assert list(cuts) == [
        "Mamba heads",
        "Mamba head channels",
        "FFN channels",
        "query heads of each KV head",
        "KV heads",
        "hidden channels",
    ]
    for selection in cuts.values():
        assert selection.student(parent).parameters < parent.parameters
    kept = cuts["FFN channels"].blocks[1]["intermediate"]
    assert min(scores.widths["intermediate"][1][list(kept)]) >= max(
        np.delete(scores.widths["intermediate"][1], kept)
    )
    best = [
        0 if scores.widths["q_heads"][2][0] > scores.widths["q_heads"][2][1] else 1,
        2 if scores.widths["q_heads"][2][2] > scores.widths["q_heads"][2][3] else 3,
    ]
    assert list(cuts["query heads of each KV head"].blocks[2]["q_heads"]) == best
    kv = cuts["KV heads"].blocks[2]
    assert kv["q_heads"] == tuple(2 * kv["kv_heads"][0] + h for h in (0, 1))
    assert "KV heads" not in best_cuts(parent, scores, 0.75)


def test_correlation_has_an_interval_and_says_when_there_is_none():
    rng = np.random.default_rng(0)
    x = rng.random(15)
    found = correlation(x, np.exp(x))
    assert (found["rho"], found["low"], found["high"]) == (
        pytest.approx(1),
        pytest.approx(1),
        pytest.approx(1),
    )
    noise = correlation(x, rng.random(15))
    assert noise["low"] < noise["rho"] < noise["high"]
    assert noise["low"] < 0 < noise["high"]
    assert correlation(np.zeros(15), x)["rho"] is None
