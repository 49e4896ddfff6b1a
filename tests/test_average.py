"""The mean of the weights of the last steps, against numpy's of the saved ones."""

import numpy as np
import pytest
import torch
from conftest import shaken, tiny
from searched_runs import Died, dying_at_step
from test_distill import text_blocks

from minipuzzle.ranks import alone
from minipuzzle.settings import Training
from minipuzzle.training import load_parameters, loop, next_token, train

STEPS = 20


def trained(folder, average, dies=0):
    """The weights after each step, and those of the result."""
    seen, model = [], shaken(tiny("M-*", vocab=61))
    settings = Training(tokens=32 * 4 * STEPS, learning_rate=3e-3, batch=4, average=average)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Pace, "due", lambda *_: True)
        step = dying_at_step(dies)

        def noted(run, due):
            done = step(run, due)
            seen.append({n: p.detach().numpy().copy() for n, p in model.named_parameters()})
            return done

        patch.setattr(loop._Run, "_step", noted)
        train(model, next_token, text_blocks(), settings, folder, identity="x")
    return seen, {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("average", "steps"), [("25%", 5), (0.24, 5), ("100%", STEPS), (0.01, 1)])
def test_the_result_is_the_mean_of_the_last_steps(tmp_path, average, steps):
    seen, found = trained(tmp_path, average)
    for name, weight in found.items():
        wanted = np.mean([each[name].astype("float64") for each in seen[-steps:]], 0)
        assert np.abs(weight.numpy() - wanted).max() < 1e-6
    if steps > 1:
        assert not np.array_equal(found["head.weight"], seen[-1]["head.weight"])
    again = shaken(tiny("M-*", vocab=61))  # the saved state has the result
    load_parameters(tmp_path / "state", again, alone(torch.device("cpu")))
    assert all(torch.equal(p.detach(), found[name]) for name, p in again.named_parameters())


def test_the_last_steps_weights_without_it(tmp_path):
    seen, found = trained(tmp_path, 0.0)
    assert all(np.array_equal(found[name], seen[-1][name]) for name in found)


@pytest.mark.parametrize("step", [8, 17, STEPS])
def test_a_killed_run_averages_the_same_steps(tmp_path, step):
    """Killed before the average begins, in it, and before its last step."""
    _, whole = trained(tmp_path / "whole", 0.25)
    with pytest.raises(Died):
        trained(tmp_path / "killed", 0.25, dies=step)
    _, killed = trained(tmp_path / "killed", 0.25)
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    _, again = trained(tmp_path / "killed", 0.25)  # nothing is left to train
    assert all(torch.equal(whole[name], again[name]) for name in whole)
