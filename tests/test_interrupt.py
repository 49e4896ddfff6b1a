"""SIGTERM and Ctrl-C: what is in hand is saved, wherever they come, and nobody sees a traceback."""

import os
import signal
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from helpers import FAST, TEXT, run
from test_distill import text_blocks
from test_robust import SETTINGS, STEP, model, noisy, values

from minipuzzle import interrupt as interrupts
from minipuzzle.importance import streams
from minipuzzle.interrupt import AtOnce, interrupt, stoppable
from minipuzzle.ranks import alone
from minipuzzle.scores import Scores
from minipuzzle.training import train
from minipuzzle.training.checkpointing import list_states


class Died(BaseException):
    """Stands for a kill: nothing of ours catches it."""


ONE = alone(torch.device("cpu"))
HANDLERS = (signal.SIGTERM, signal.SIGINT)


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers():
    """Whatever happens, the handlers of before are back. Python's own, which a shell's background
    job does not have.
    """
    outer = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(number) for number in HANDLERS]
    yield
    after = [signal.getsignal(number) for number in HANDLERS]
    signal.signal(signal.SIGINT, outer)
    assert after == before


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_between_legs_a_signal_stops_with_a_line(number, error, capfd):
    """SIGTERM killed the process there."""
    done = []

    def stage():
        with stoppable():
            with interrupt(ONE):
                done.append("leg")
            send(number)
            done.append("next leg")

    with pytest.raises(error) as stopped:
        stage()
    assert done == ["leg"]
    assert getattr(stopped.value, "code", None) in (0, None)
    assert "the same command goes on from there" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
@pytest.mark.parametrize("within", [True, False])
def test_a_signal_in_the_last_step_of_a_leg_is_not_lost(number, error, within, tmp_path):
    """The leg ends, all of it saved, and the command stops before the next one."""
    trained, steps = model(), 0

    def last(*args):
        nonlocal steps
        steps += 1
        if steps == SETTINGS.tokens // STEP:
            send(number)
        return noisy(*args)

    def stage():
        with stoppable() if within else nullcontext():
            train(trained, last, text_blocks(), settings, tmp_path, identity="x")
            raise AssertionError("the next leg began")

    settings = replace(SETTINGS, save_every=1e9)
    with pytest.raises(error):
        stage()
    assert [path.name for path in list_states(tmp_path / "state")] == [f"{SETTINGS.tokens:015}"]
    again = model()
    train(again, last, text_blocks(), settings, tmp_path, identity="x")
    assert torch.equal(values(again), values(trained))


def test_ctrl_c_saves_and_a_second_one_stops_at_once(tmp_path, capfd):
    steps, times = 0, 1

    def pressed(*args):
        nonlocal steps
        steps += 1
        if steps == 5:
            for _ in range(times):
                send(signal.SIGINT)
        return noisy(*args)

    settings = replace(SETTINGS, save_every=1e9)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(model(), pressed, text_blocks(), settings, tmp_path / "once", identity="x")
    assert not isinstance(stopped.value, AtOnce)
    assert [path.name for path in list_states(tmp_path / "once/state")] == [f"{STEP * 5:015}"]
    assert "press it again to stop at once" in capfd.readouterr().err
    steps, times = 0, 2
    with pytest.raises(AtOnce):
        train(model(), pressed, text_blocks(), settings, tmp_path / "twice", identity="x")
    assert not list_states(tmp_path / "twice/state")


def test_signals_that_were_switched_off_stay_so():
    """nohup and a shell's background jobs."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable() as stop:
            send(signal.SIGINT)
        assert not stop.asked
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_has_no_signals():
    found = []

    def work():
        with stoppable(), interrupt(ONE) as stop:
            found.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [""]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_scoring_stops_after_its_block_and_goes_on(
    number, code, checkpoint, tmp_path, monkeypatch, capfd
):
    """Saved though its time had not come; the scores equal an uninterrupted run's."""
    score = ("score", checkpoint, "--data", TEXT, *FAST["score"])
    run(*score, "--run", tmp_path / "whole")
    visits, real = [], streams.Streams.settle

    def signalled(self):
        visits.append(1)
        if len(visits) == 4:
            send(number)
        real(self)

    monkeypatch.setattr(streams.Streams, "settle", signalled)
    monkeypatch.setattr(
        "minipuzzle.importance.state.SAVING_SHARE", 1e-9
    )  # only the first block is saved unasked
    run(*score, "--run", tmp_path / "run", code=code)
    said = capfd.readouterr().err
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert [path.name[:6] for path in (tmp_path / "run/scores.partial").rglob("*.safetensors")] == [
        "000004"
    ]
    run(*score, "--run", tmp_path / "run")
    assert len(visits) == 7, "four blocks of seven were not computed again"
    assert not (tmp_path / "run/scores.partial").exists()
    one, two = (Scores.load(tmp_path / name / "scores.safetensors") for name in ("whole", "run"))
    assert (one.blocks == two.blocks).all()


def test_other_settings_leave_an_unfinished_scoring_alone(
    checkpoint, tmp_path, monkeypatch, capsys
):
    """Its state was deleted by the first save of another one."""
    score = ("score", checkpoint, "--data", TEXT, "--run", tmp_path / "run", *FAST["score"])
    real, visits = streams.Streams.settle, []

    def killed(self):
        visits.append(1)
        real(self)
        if len(visits) == 3:
            raise Died

    monkeypatch.setattr(streams.Streams, "settle", killed)
    with pytest.raises(Died):
        run(*score)
    run(*score, "--seed", 1)
    assert "1 unfinished with other settings stay in" in capsys.readouterr().err
    visits.clear()
    visits += [1] * 10
    run(*score)
    assert len(visits) < 17, "it went on where it was"
    assert not (tmp_path / "run/scores.partial").exists()


def test_a_command_that_is_stopped_at_once_leaves_at_once(tmp_path, monkeypatch, capfd):
    from minipuzzle.commands import _shared

    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with _shared.command(tmp_path / "run"), interrupt(ONE):
        send(signal.SIGINT)
        send(signal.SIGINT)
    assert codes == [130]
    assert "stopped at once" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_of_several_processes_all_stop(monkeypatch):
    """One has had the signal, this one hears it from the vote."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    votes = []

    class Two:
        world = 2

        def least(self, number):
            votes.append(number)
            return 0.0

    def stage():
        with interrupt(Two()) as outer:
            with interrupt(Two()) as inner:
                assert outer is inner
            assert not votes, "a leg of several ends without a vote of its own"
            with pytest.raises(SystemExit):
                outer.check(Two())

    with pytest.raises(SystemExit) as stopped:
        stage()
    assert stopped.value.code == 0
    assert votes == [1.0, 1.0]
    assert interrupts._now is None
