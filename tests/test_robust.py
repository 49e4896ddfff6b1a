"""Training that is interrupted, damaged, out of disk or out of numbers."""

import os
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch
from conftest import shaken, tiny
from helpers import Watched, heard
from test_distill import text_blocks

from minipuzzle.errors import UserError
from minipuzzle.settings import Training
from minipuzzle.training import next_token, shards, train
from minipuzzle.training.checkpointing import list_states
from minipuzzle.training.guard import Guard

STEP = 32 * 4
SETTINGS = Training(tokens=STEP * 24, learning_rate=1e-3, batch=4, save_every=0.0)


def model():
    return shaken(tiny("M-*", hidden=16, vocab=61))


def noisy(model, tokens, documents):
    """A loss with random numbers in it, as an adapter's dropout has."""
    batch = next_token(model, tokens, documents)
    return replace(batch, total=batch.total + (torch.rand(61) * model.head_weight.sum(1)).sum())


def values(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def rows(folder):
    """The log but for the column of seconds."""
    return [
        [*line.split(",")[:6], line.split(",")[7]]
        for line in (folder / "log.csv").read_text().splitlines()
    ]


def stopped_at(tokens, folder, settings=SETTINGS, objective=noisy):
    """Train until SIGTERM comes during the step that ends at ``tokens``; the model as it was
    then.
    """
    trained, steps = model(), 0

    def interrupting(*args):
        nonlocal steps
        steps += 1
        if steps * STEP == tokens:
            os.kill(os.getpid(), signal.SIGTERM)
        return objective(*args)

    with pytest.raises(SystemExit) as stopped:
        train(trained, interrupting, text_blocks(), settings, folder, identity="x")
    assert not stopped.value.code
    return trained


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: (its parameters, its log)."""
    folder = tmp_path_factory.mktemp("whole")
    trained = model()
    train(trained, noisy, text_blocks(), SETTINGS, folder, identity="x")
    return values(trained), rows(folder)


def test_sigterm_saves_exits_with_0_and_goes_on_bit_for_bit(whole, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    stopped_at(STEP * 13, tmp_path, replace(SETTINGS, save_every=1e9))
    assert signal.getsignal(signal.SIGTERM) is before
    assert [p.name for p in list_states(tmp_path / "state")] == [f"{STEP * 13:015}"]
    trained = model()
    with heard() as said:
        train(trained, noisy, text_blocks(), SETTINGS, tmp_path, identity="x")
    assert said == [f"going on after {STEP * 13:,} tokens"]
    assert torch.equal(values(trained), whole[0])
    assert rows(tmp_path) == whole[1]


def test_a_damaged_newest_state_gives_way_to_the_one_before(whole, tmp_path):
    stopped_at(STEP * 13, tmp_path)
    newest, older = list_states(tmp_path / "state")
    shard = next(newest.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    trained = model()
    with heard() as said:
        train(trained, noisy, text_blocks(), SETTINGS, tmp_path, identity="x")
    assert "is damaged" in said[0]
    assert shard.name in said[0]
    assert said[1] == f"going on after {int(older.name):,} tokens"
    assert torch.equal(values(trained), whole[0])
    for state in list_states(tmp_path / "state"):
        (state / "state.json").write_text("{")
    with pytest.raises(UserError, match="can be read"):
        train(model(), noisy, text_blocks(), SETTINGS, tmp_path, identity="x")


@pytest.mark.parametrize("changed", ["flipped", "short", "gone"])
def test_what_was_written_is_compared_with_memory(tmp_path, monkeypatch, changed):
    stopped_at(STEP * 3, tmp_path)
    kept = list_states(tmp_path / "state")
    real = shards.check

    def damaging(folder, sums, **options):
        if options.get("written"):
            file = folder / next(iter(sums))
            data = bytearray(file.read_bytes())
            data[-5] ^= 64
            file.write_bytes(data if changed == "flipped" else data[:-4])
            if changed == "gone":
                file.unlink()
        return real(folder, sums, **options)

    monkeypatch.setattr(shards, "check", damaging)
    with pytest.raises(UserError, match="does not hold what was written"):
        train(model(), noisy, text_blocks(), SETTINGS, tmp_path, identity="x")
    assert list_states(tmp_path / "state") == kept
    assert len(kept) == 2
    assert not list((tmp_path / "state").glob(".*"))


def test_another_batch_goes_on_at_the_same_token(tmp_path):
    stopped_at(STEP * 8, tmp_path)
    seen = []

    def watched(model, tokens, documents):
        seen.append(tokens)
        return next_token(model, tokens, documents)

    half = replace(SETTINGS, batch=2, micro_batch=1, learning_rate=5e-4)
    with heard() as said:
        train(model(), watched, text_blocks(), half, tmp_path, identity="x")
    assert said == [
        f"going on after {STEP * 8:,} tokens, with batch 4 -> 2, learning rate 0.001 -> 0.0005"
    ]
    want = torch.from_numpy(text_blocks().stream(range(8 * 4, 24 * 4), 0)[0])
    assert torch.equal(torch.cat(seen), want)
    assert list_states(tmp_path / "state")[0].name == f"{SETTINGS.tokens:015}"


def test_micro_batches_change_nothing(whole, tmp_path):
    results = []
    for size in (0, 3):
        trained = model()
        settings = replace(SETTINGS, tokens=STEP * 5, micro_batch=size)
        train(trained, next_token, text_blocks(), settings, tmp_path / str(size), identity="x")
        results.append(values(trained))
    assert torch.allclose(*results, atol=2e-6)


def test_only_what_is_trained_is_saved(tmp_path):
    from minipuzzle.checkpoint.header import read_header

    frozen = model().requires_grad_(False)
    frozen.final_norm.weight.requires_grad_(True)
    before = values(frozen)
    train(
        frozen,
        next_token,
        text_blocks(),
        replace(SETTINGS, tokens=STEP * 2),
        tmp_path,
        identity="x",
    )
    (file,) = list_states(tmp_path / "state")[0].glob("*.safetensors")
    assert set(read_header(file)) == {
        f"{kind}.final_norm.weight" for kind in ("model", "exp_avg", "exp_avg_sq")
    }
    assert (values(frozen) != before).sum() == 16


def test_a_step_without_a_number_is_skipped_and_reported(tmp_path):
    steps, trained = 0, model()

    def broken_once(model, tokens, documents):
        nonlocal steps
        steps += 1
        batch = next_token(model, tokens, documents)
        return replace(batch, total=batch.total * (float("nan") if steps == 5 else 1.0))

    with heard() as said:
        train(trained, broken_once, text_blocks(), SETTINGS, tmp_path, identity="x")
    assert said == ["step 5 skipped: loss nan is no longer a number"]
    assert torch.isfinite(values(trained)).all()
    assert (tmp_path / "log.csv").read_text().splitlines()[1].endswith(",1")


def test_training_that_breaks_down_stops_with_advice(tmp_path):
    broken = model()
    with torch.no_grad():
        broken.final_norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="10 steps in a row") as error:
        train(broken, next_token, text_blocks(), SETTINGS, tmp_path, identity="x")
    assert "with a lower training.learning_rate" in error.value.next


def test_spikes():
    guard = Guard()
    assert not any(guard.accept(3.0 + 0.1 * (i % 7), 1.0 + 0.1 * (i % 5)) for i in range(100))
    assert "gradient norm 40" in guard.accept(3.1, 40.0)
    assert "loss 9" in guard.accept(9.0, 1.0)
    again = Guard(**guard.state())
    assert guard.skipped == again.skipped == 2
    assert not again.accept(3.2, 1.2)
    assert not any(Guard().accept(loss, 1.0) for loss in (3.0, 50.0)), "too few steps to judge by"


@pytest.mark.parametrize("small_disk", ["4m"], indirect=True)
def test_a_full_disk_loses_nothing_earlier(whole, small_disk):
    stopped_at(STEP * 13, small_disk, replace(SETTINGS, save_every=1e9))
    kept = list_states(small_disk / "state")
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - 30_000))
    with pytest.raises(UserError, match="Could not write"):
        train(model(), noisy, text_blocks(), SETTINGS, small_disk, identity="x")
    assert list_states(small_disk / "state") == kept
    assert len(kept) == 1
    assert not list((small_disk / "state").glob(".*"))
    (small_disk / "ballast").unlink()
    trained = model()
    train(trained, noisy, text_blocks(), SETTINGS, small_disk, identity="x")
    assert torch.equal(values(trained), whole[0])


@pytest.mark.parametrize("small_disk", ["4m"], indirect=True)
def test_where_three_states_have_no_room_the_older_one_goes_first(whole, small_disk):
    stopped_at(STEP * 13, small_disk)
    newest, older = list_states(small_disk / "state")
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - 30_000))
    trained = model()
    with heard() as said:
        train(
            trained,
            noisy,
            text_blocks(),
            replace(SETTINGS, save_every=1e9),
            small_disk,
            identity="x",
        )
    assert said == [
        f"going on after {STEP * 13:,} tokens",
        f"the disk is nearly full: {older} makes room for the next checkpoint",
    ]
    assert list_states(small_disk / "state")[1:] == [newest]
    assert torch.equal(values(trained), whole[0])


def test_a_run_that_stops_lets_its_writer_end(tmp_path, monkeypatch):
    check, state = shards.check, tmp_path / "state"
    monkeypatch.setattr(shards, "check", lambda *a, **k: time.sleep(0.5) or check(*a, **k))

    def advance(tokens, loss):
        if tokens and list(state.glob(".*")):
            raise UserError("The log is full.", got="", allowed="", next="")

    with pytest.raises(UserError, match="The log"):
        train(
            model(),
            noisy,
            text_blocks(),
            SETTINGS,
            tmp_path,
            identity="x",
            progress=Watched(advance),
        )
    assert not list(state.glob(".*"))
    assert list_states(state)


def test_tensorboard_has_the_numbers_of_the_log(whole, tmp_path, monkeypatch):
    shown = replace(SETTINGS, log_to=("tensorboard",))
    stopped_at(STEP * 13, tmp_path, shown)
    train(model(), noisy, text_blocks(), shown, tmp_path, identity="x")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    found = {event.step: event.value for event in board.Scalars("loss")}
    want = {int(row[0]): float(row[2]) for row in whole[1][1:]}
    assert found == pytest.approx(want, rel=1e-5)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed"):
        train(model(), noisy, text_blocks(), shown, tmp_path / "new", identity="x")
