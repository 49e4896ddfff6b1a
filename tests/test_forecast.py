"""What more tokens would bring, on curves whose answer is known."""

import numpy as np
import pytest
import torch
from conftest import shaken, tiny
from searched_runs import Died, dying_at_step
from test_distill import text_blocks

from minipuzzle.metrics import measure
from minipuzzle.records import load_log
from minipuzzle.report.forecast import Forecast, forecast
from minipuzzle.settings import Training
from minipuzzle.training import loop, next_token, train
from minipuzzle.training.curve import FEWEST_STEPS, POINTS, Curve
from minipuzzle.training.log import LOG

TOKENS = [round(1e6 * 2 ** (-k / 2)) for k in range(10, -1, -1)]


def curve(a, b, c, noise=0.0, seed=0):
    """Points of a + b t^-c, t in shares of all tokens, with normal errors of ``noise``."""
    errors = noise * np.random.default_rng(seed).standard_normal(len(TOKENS))
    return [(n, float(a + b * (n / 1e6) ** -c + e)) for n, e in zip(TOKENS, errors, strict=True)]


@pytest.mark.parametrize("law", [(3.0, 0.1, 0.5), (0.0, 2.0, 0.05), (1.5, 0.02, 1.2)])
def test_an_exact_law_is_found(law):
    found = forecast(curve(*law))
    assert isinstance(found, Forecast)
    a, b, c = law
    for factor, (loss, low, high) in found.losses.items():
        assert loss == pytest.approx(a + b * factor**-c, abs=1e-5)
        assert low <= loss <= high < low + 1e-4
    assert list(found.losses) == [2, 4]


@pytest.mark.parametrize("law", [(3.0, 0.1, 0.5), (2.0, 0.3, 0.25)])
def test_the_interval_covers_the_truth_as_often_as_it_says(law):
    """95 % for 300 noisy curves; refused ones count as covered, and are few."""
    a, b, c = law
    inside, refused = {2: 0, 4: 0}, 0
    for seed in range(300):
        found = forecast(curve(a, b, c, noise=0.003, seed=seed))
        refused += isinstance(found, str)
        for factor in inside:
            if isinstance(found, Forecast):
                _, low, high = found.losses[factor]
                inside[factor] += low <= a + b * factor**-c <= high
    assert refused < 15
    for covered in inside.values():
        assert 0.90 < covered / (300 - refused) < 0.99


def test_what_cannot_be_fitted_says_why():
    good = curve(3.0, 0.1, 0.5)
    rising = [(n, 6.0 - loss) for n, loss in good]
    step = [(n, 3.0 if n > 3e5 else 4.0) for n in TOKENS]
    hump = [(n, loss + 0.5 * (i == 5)) for i, (n, loss) in enumerate(good)]
    for points, why in (
        (good[:5], "5 points, at least 6"),
        ([], "0 points"),
        (rising, "did not fall"),
        ([(n, 3.0) for n in TOKENS], "did not fall"),
        (step, "no power law"),
        (hump, "no power law"),
        ([*good[:-1], (TOKENS[-1], float("nan"))], "no number"),
        (curve(3.0, 0.1, 0.5, noise=0.1, seed=3), ""),
    ):
        found = forecast(points)
        assert isinstance(found, str), points
        assert why in found


def trained(folder, curve, model, dies=0, tokens=128 * FEWEST_STEPS):
    settings = Training(tokens=tokens, learning_rate=3e-3, batch=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Pace, "due", lambda *_: True)
        patch.setattr(loop._Run, "_step", dying_at_step(dies))
        train(model, next_token, text_blocks(), settings, folder, identity="x", curve=curve)
    return model


def test_the_loss_is_measured_along_the_run_and_changes_nothing(tmp_path):
    sample = text_blocks().take(3)
    curves = [Curve(lambda m: measure(m, sample).loss, 128 * 64, 64) for _ in range(2)]
    models = [shaken(tiny("ME*", vocab=61)) for _ in range(4)]
    plain = trained(tmp_path / "plain", None, models[0])
    whole = trained(tmp_path / "whole", curves[0], models[1])
    assert all(map(torch.equal, plain.parameters(), whole.parameters()))
    # experts' load too
    rows = [load_log(tmp_path / name / LOG) for name in ("plain", "whole")]
    without, with_curve = ([row | {"seconds": 0} for row in each] for each in rows)
    assert without == with_curve
    steps = [tokens / 128 for tokens, _ in curves[0].points]
    assert steps == [2, 3, 4, 6, 8, 12, 16, 23, 32, 46, 64]
    assert curves[0].points[-1][1] == measure(whole, sample).loss
    with pytest.raises(Died):
        trained(tmp_path / "killed", curves[1], models[2], dies=20)
    trained(tmp_path / "killed", curves[1], models[3])
    assert curves[1].points == curves[0].points
    assert len(curves[0].points) == POINTS
    assert not Curve(lambda m: 0.0, 128 * 63, FEWEST_STEPS - 1).due(0, 128 * 63)
