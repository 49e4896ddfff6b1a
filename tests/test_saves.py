"""Saved states: their files, what a save costs in time and memory, and the numbers of a run that
was interrupted.
"""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import shaken, tiny
from helpers import heard
from safetensors.torch import load_file
from test_distill import text_blocks
from test_robust import SETTINGS, STEP, model, stopped_at
from torch import nn

from minipuzzle.errors import UserError
from minipuzzle.ranks import Ranks, alone
from minipuzzle.settings import Training
from minipuzzle.settings.recipe_file import build
from minipuzzle.training import load_parameters, next_token, shards, train
from minipuzzle.training.checkpointing import States, list_states
from minipuzzle.training.pace import Pace

CPU = torch.device("cpu")


def tensors():
    generator = torch.Generator().manual_seed(0)
    sizes = {"a": (70, 3), "b": (1,), "c": (5, 5, 5), "none": (0, 4), "d": ()}
    found = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    return {**found, "half": torch.randn(31, generator=generator).bfloat16()}


@pytest.mark.parametrize(("world", "size"), [(1, 1 << 20), (1, 64), (3, 100), (2, 7)])
def test_what_some_processes_write_any_number_reads(tmp_path, monkeypatch, world, size):
    """Of what all hold alike each writes a part; safetensors itself reads the files, none larger
    than a shard.
    """
    monkeypatch.setattr(shards, "SHARD_BYTES", size)
    monkeypatch.setattr(shards, "PIECE_BYTES", 24)
    want, sums = tensors(), {}
    for rank in range(world):
        sums |= shards.write(tmp_path, want, Ranks(rank=rank, world=world, device=CPU))
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == sorted(sums)
    assert shards.check(tmp_path, sums, written=True) == []
    parts = [
        (key.partition("@"), value) for file in files for key, value in load_file(file).items()
    ]
    for name, tensor in want.items():
        mine = sorted(
            (int(first or 0), value) for (other, _, first), value in parts if other == name
        )
        assert torch.equal(
            torch.cat([value for _, value in mine] or [torch.empty(0)]), tensor.flatten()
        )
    for file in files:
        assert sum(value.nbytes for value in load_file(file).values()) <= size
    got = {name: torch.full_like(tensor, 7) for name, tensor in want.items()}
    shards.read(tmp_path, got)
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())
    files[0].unlink()
    assert shards.check(tmp_path, sums) == [files[0].name]
    with pytest.raises(UserError, match="not this model's"):
        shards.read(tmp_path, got)


def anonymous():
    """Bytes of memory of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_a_save_takes_no_more_memory_than_a_shard(tmp_path, monkeypatch):
    """A state of 96 MiB in shards of 16: it took two more states."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 16 << 20)
    layers = nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(8)])
    optimizer = torch.optim.AdamW(layers.parameters())
    sum(layer.weight.sum() for layer in layers).backward()
    optimizer.step()
    optimizer.zero_grad()
    peak, done = [0], threading.Event()

    def watch():
        while not done.wait(0.001):
            peak[0] = max(peak[0], anonymous())

    states = States(tmp_path, "x", alone(CPU))
    before, watcher = anonymous(), threading.Thread(target=watch)
    watcher.start()
    states.save(layers, optimizer, {"tokens": 1, "updates": 1})
    states.wait()
    done.set()
    watcher.join()
    taken = peak[0] - before
    print(f"a save of {12 * 8 << 20:,} bytes took {taken:,} of memory")
    assert taken < 1.2 * shards.SHARD_BYTES
    weights, again = layers[3].weight.clone(), torch.optim.AdamW(layers.parameters())
    with torch.no_grad():
        layers[3].weight.zero_()
    assert States(tmp_path, "x", alone(CPU)).load(layers, again) == {"tokens": 1, "updates": 1}
    assert torch.equal(layers[3].weight, weights)
    assert torch.equal(
        again.state[layers[3].weight]["exp_avg_sq"], optimizer.state[layers[3].weight]["exp_avg_sq"]
    )


@pytest.mark.parametrize(
    ("least", "step", "stall", "slower", "writing"),
    [
        (30, 0.5, 12, 0.0, 40),
        (30, 0.5, 3, 0.2, 60),
        (1, 0.1, 0.4, 0.05, 3),
        (30, 0.5, 0.1, 0.0, 150),
        (30, 90, 5, 9, 200),
        (0, 0.01, 0.005, 0.0, 0.002),
    ],
)
def test_saves_take_a_tenth_of_the_time_at_most(least, step, stall, slower, writing):
    """A simulated day (or 20,000 steps) of steps that are ``slower`` while a save is being
    written.
    """
    now = written = spent = stepped = 0.0
    pace, saves, gaps, last = Pace(least, now), 0, [], None
    for _ in range(20_000):
        beside = now < written
        if not beside and pace.due(now):
            began, saves = now, saves + 1
            now, spent = now + stall, spent + stall
            assert saves == 1 or spent <= 0.1 * now  # and not only in the end
            gaps += [] if last is None else [began - last]
            last, written = now, now + writing
            pace.saved(began, now)
            beside = True
        began, now = now, now + step + (slower if beside else 0)
        spent, stepped = spent + (slower if beside else 0), stepped + step
        pace.stepped(began, now, writing=beside)
        if now > 86_400:
            break
    assert saves > 20
    assert spent / now <= 0.1
    assert min(gaps) >= least + writing
    most = max(least, 9 * (stall + slower * (writing / step + 2)))
    assert max(gaps[1:]) <= writing + most + 3 * (step + slower)  # and as often as that allows


def test_a_save_never_waits_for_the_one_before(tmp_path, monkeypatch):
    """Written for longer than the interval: steps go on meanwhile, and the last state is saved
    nevertheless.
    """
    check, wait, begun, waited = shards.check, States.wait, [], []

    def slow(*args, **options):
        begun.append(args)
        time.sleep(0.01)
        return check(*args, **options)

    monkeypatch.setattr(shards, "check", slow)
    monkeypatch.setattr(States, "wait", lambda self: waited.append(self.writing) or wait(self))
    settings = replace(SETTINGS, save_every=0.001, tokens=STEP * 60)
    train(model(), next_token, text_blocks(), settings, tmp_path, identity="x")
    assert len(begun) >= 3
    assert not any(waited[:-2])  # but for the last save, and for that to be on disk
    assert waited[-1]
    assert list_states(tmp_path / "state")[0].name == f"{settings.tokens:015}"


def test_an_interrupted_run_returns_the_same_loss(tmp_path):
    settings = replace(SETTINGS, tokens=STEP * 50)
    whole = train(model(), next_token, text_blocks(), settings, tmp_path / "whole", identity="x")
    for steps in (47, 50):
        folder = tmp_path / str(steps)
        if steps < 50:
            stopped_at(STEP * steps, folder, settings, next_token)
        else:
            train(
                model(), next_token, text_blocks(), settings, folder, identity="x"
            )  # killed before it was reported
            (folder / "log.csv").unlink()
        assert train(model(), next_token, text_blocks(), settings, folder, identity="x") == whole


def changed(state, **values):
    about = json.loads((state / "state.json").read_text())
    (state / "state.json").write_text(json.dumps({**about, **values}))


def test_states_of_another_version_are_refused(tmp_path):
    stopped_at(STEP * 3, tmp_path)
    for state in list_states(tmp_path / "state"):
        changed(state, schema=1)
    with pytest.raises(UserError, match="Another version") as error:
        train(model(), next_token, text_blocks(), SETTINGS, tmp_path, identity="x")
    assert str(tmp_path / "state") in error.value.next
    assert len(list_states(tmp_path / "state")) == 2


@pytest.mark.parametrize(
    "text", ["[]", "", "null", '{"schema": 3}', '{"schema": 3, "checksum": 3, "files": 4}']
)
def test_a_state_that_is_not_described_is_damaged(tmp_path, text):
    stopped_at(STEP * 3, tmp_path, replace(SETTINGS, save_every=1e9))
    (state,) = list_states(tmp_path / "state")
    (state / "state.json").write_text(text)
    with pytest.raises(UserError, match="can be read"):
        train(model(), next_token, text_blocks(), SETTINGS, tmp_path, identity="x")


def test_a_changed_number_of_a_state_is_damage(tmp_path):
    stopped_at(STEP * 3, tmp_path)
    newest, older = list_states(tmp_path / "state")
    progress = json.loads((newest / "state.json").read_text())["progress"]
    changed(newest, progress={**progress, "tokens": 5 * STEP})
    with heard() as said:
        train(model(), next_token, text_blocks(), SETTINGS, tmp_path, identity="x")
    assert "damaged" in said[0]
    assert said[1] == f"going on after {int(older.name):,} tokens"


def test_a_damaged_result_of_an_earlier_run_is_not_taken(tmp_path):
    trained = model()
    train(trained, next_token, text_blocks(), SETTINGS, tmp_path, identity="x")
    again = shaken(tiny("M-*", hidden=16, vocab=61), 5)
    load_parameters(tmp_path / "state", again, alone(CPU))
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), trained.parameters(), strict=True)
    )
    file = next(list_states(tmp_path / "state")[0].glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        load_parameters(tmp_path / "state", again, alone(CPU))


def test_the_setting_of_older_recipes_is_named_anew():
    with pytest.raises(UserError) as error:
        build(Training, {"checkpoint_seconds": 60}, "training")
    assert "'save_every'" in error.value.next
    for seconds in (-1.0, float("nan")):
        with pytest.raises(UserError, match="save_every"):
            Training(save_every=seconds)
