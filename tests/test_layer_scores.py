"""Scores of families whose blocks stay or go as layers: both blocks taken out at once, not the sum
of what each does alone.
"""

import numpy as np
import pytest
import torch
from family_models import FORMS, theirs_of
from helpers import Watched
from streamed_scores import CPU, distance, ends, run, samples, text, without

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.importance import score, work
from minipuzzle.model import load_model
from minipuzzle.nas.damage import drop_damage
from minipuzzle.nas.select import damage, ranked_layers
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings


@pytest.fixture(scope="module", params=["llama", "bamba"])
def parent(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    fields = {**next(iter(FORMS[request.param].values())), "num_hidden_layers": 4}
    theirs_of(request.param, fields).save_pretrained(folder)
    return Checkpoint.open(folder)


@torch.no_grad()
def test_a_layers_score_equals_masking_both_blocks(parent, tmp_path):
    scores = run(parent, tmp_path)
    model, x = load_model(parent).eval(), samples(3)
    full = ends(model, without(model), x)

    def of(*blocks):
        return distance("mse", full, ends(model, without(model, *blocks), x), x)

    assert scores.layers == pytest.approx([of(i, i + 1) for i in (0, 2, 4, 6)], rel=1e-3)
    assert scores.blocks == pytest.approx([of(i) for i in range(8)], rel=1e-3)
    assert not np.allclose(scores.layers, scores.blocks.reshape(4, 2).sum(1), rtol=1e-3)
    scores.save(tmp_path / "scores.safetensors")
    loaded = Scores.load(tmp_path / "scores.safetensors")
    assert (loaded.layers == scores.layers).all()
    assert drop_damage(loaded).reshape(4, 2).sum(1) == pytest.approx(scores.layers)
    kept = Selection(blocks=tuple(without(model, 2, 3, 6, 7)))
    assert damage(parent.architecture, loaded, kept) == pytest.approx(scores.layers[[1, 3]].sum())
    best = [
        unit[0] // 2
        for units in ranked_layers(parent.architecture, loaded).values()
        for unit in units
    ]
    assert sorted(best) == [0, 1, 2, 3]
    assert (
        len(ranked_layers(parent.architecture, loaded)) > 1
        or best == np.argsort(-scores.layers).tolist()
    )


@torch.no_grad()
def test_iterative_removal_takes_whole_layers(parent, tmp_path):
    scores = run(parent, tmp_path, iterative=2)
    model, x = load_model(parent).eval(), samples(3)
    full, order = ends(model, without(model), x), []
    for _ in range(2):
        found = {
            (i, i + 1): distance("mse", full, ends(model, without(model, i, i + 1, *order), x), x)
            for i in (0, 2, 4, 6)
            if i not in order
        }
        order += min(found, key=found.get)
    assert scores.meta["removal_order"] == order


@pytest.mark.parametrize("options", [{}, {"curves": False, "iterative": 3}])
def test_work_is_what_is_advanced(parent, tmp_path, options):
    rows, settings = [], ScoreSettings(samples=6, block_samples=3, batch=2, **options)
    score(parent, text(), settings, device=CPU, partial=tmp_path, progress=Watched(rows.append))
    assert sum(rows) == work(settings, parent.architecture, 8)


def test_saves_take_their_share_of_the_time(tmp_path, monkeypatch):
    """The first one too, whose rate is guessed; then as measured."""
    from minipuzzle.importance import state
    from minipuzzle.interrupt import Interrupt
    from minipuzzle.ranks import alone

    now = [100.0]
    monkeypatch.setattr(state.time, "monotonic", lambda: now[0])
    saves = state.State(tmp_path, "inputs", alone(CPU), Interrupt())

    def due_after(nbytes, seconds):
        start, found = now[0], []
        for share in (0.99, 1.01):
            now[0] = start + share * seconds
            found.append(saves.due(nbytes))
        return found == [False, True]

    assert due_after(nbytes=2_000_000_000, seconds=2 * (1 / 0.03 - 1))
    monkeypatch.setattr(
        state, "_write", lambda file, about, tensors: now.__setitem__(0, now[0] + 4)
    )
    saves.save(1, {}, {"hidden": torch.zeros(1000)})  # 1,000 bytes a second
    assert due_after(nbytes=2000, seconds=2 * (1 / 0.03 - 1))


def test_a_stopped_scoring_resumes_bit_equal(parent, tmp_path, monkeypatch):
    from minipuzzle.importance import state, visit

    monkeypatch.setattr(state, "SAVING_SHARE", 1.0)
    whole, usual, visits = run(parent, tmp_path / "whole"), visit.Visits.visit, []

    def stopped(*args, **kwargs):
        visits.append(None)
        if len(visits) % 2 == 0:
            raise KeyboardInterrupt
        return usual(*args, **kwargs)

    monkeypatch.setattr(visit.Visits, "visit", stopped)
    while True:
        try:
            again = run(parent, tmp_path / "broken")
            break
        except KeyboardInterrupt:
            assert len(visits) < 20
    assert len(visits) > 8
    assert (again.layers == whole.layers).all()
    assert (again.blocks == whole.blocks).all()
