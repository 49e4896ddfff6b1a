"""minipuzzle profile: sums of blocks are right on a machine that drifts, and the table says how far
they are off.
"""

import itertools

import pytest
import torch
from conftest import tiny
from helpers import run

from minipuzzle import timing
from minipuzzle.cost.latency import LatencyTable, model_ms
from minipuzzle.kernels import choose
from minipuzzle.profile import profile
from minipuzzle.runs.profile import run_profile, some_students
from minipuzzle.settings import parse_work

WORK = parse_work("b1,p32,o4")
CPU = torch.device("cpu")
COSTS = {"mamba": 3.0, "mlp": 1.0, "attention": 2.0}
AROUND = 0.5


def cost(block):
    return COSTS[block.kind] * (7 + block.sizes[block.widths[0].axis])


def pretend(monkeypatch, slower):
    """A machine that takes ``cost`` for a block, times the next of ``slower`` in each turn."""

    def turn(model, phase, work, inside):
        factor = next(slower)
        ms = [AROUND, *(factor * cost(block) for block in model.architecture.blocks), AROUND]
        return ms if inside else [sum(ms)]

    monkeypatch.setattr(timing, "_turn", turn)


def table(rounds):
    parent = tiny("M-M*-M-", intermediate=128)
    machine = timing.Machine(device=CPU, dtype=torch.float32, kernels=choose(CPU), rounds=rounds)
    return profile(parent, [WORK], machine, widths=5, checked=some_students(parent, 6, seed=0))


def test_sums_are_exact_though_the_machine_slows_down(monkeypatch):
    per_round = (5 + 6) * 2
    pretend(monkeypatch, itertools.chain.from_iterable([1 + 0.2 * n] * per_round for n in range(7)))
    found = table(rounds=7)
    assert len(found.meta["additivity"]) == 12
    for row in found.meta["additivity"]:
        assert row["error"] == pytest.approx(0, abs=1e-9), row
        assert row["speedup_error"] == pytest.approx(0, abs=1e-9)
    parent = tiny("M-M*-M-", intermediate=128)
    assert model_ms(found, parent, "decode", WORK) == pytest.approx(
        1.6 * sum(map(cost, parent.blocks)) + 2 * AROUND
    )
    assert (found.margin, found.meta["worst_additivity_error"]) == pytest.approx((0, 0), abs=1e-9)


def test_turns_that_others_took_do_not_count(monkeypatch):
    pretend(monkeypatch, (100.0 if n % 5 == 0 else 1.0 for n in itertools.count()))
    assert table(rounds=9).meta["worst_additivity_error"] == pytest.approx(0, abs=1e-9)


def test_a_machine_that_is_not_additive_is_found_out(monkeypatch):
    def turn(model, phase, work, inside):
        ms = [1.0] * (len(model.blocks) + 2)
        return ms if inside else [1.25 * sum(ms)]

    monkeypatch.setattr(timing, "_turn", turn)
    assert table(rounds=1).meta["worst_additivity_error"] == pytest.approx(0.2)


def test_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "ROUNDS", {"cpu": 1})
    parent = tiny()
    made = run_profile(
        parent, [WORK], tmp_path / "latency.json", device="cpu", dtype="fp32", widths=2
    )
    loaded = LatencyTable.load(tmp_path / "latency.json", device="cpu", dtype="float32")
    assert loaded.entries == made.entries
    assert min(made.entries.values()) > 0
    assert [row["phase"] for row in made.meta["additivity"]] == ["prefill", "decode"] * 4
    total = model_ms(loaded, parent, "prefill", WORK) + WORK.output * model_ms(
        loaded, parent, "decode", WORK
    )
    assert model_ms(loaded, parent, "total", WORK) == pytest.approx(total)


def test_one_phase_and_no_whole_models(monkeypatch):
    monkeypatch.setattr(timing, "ROUNDS", {"cpu": 1})
    machine = timing.Machine(device=CPU, dtype=torch.float32, kernels=choose(CPU))
    found = profile(tiny(), [WORK], machine, widths=1, phases=["decode"])
    assert {phase for phase, *_ in found.entries} == {"decode"}
    assert (found.meta["additivity"], found.meta["worst_additivity_error"], found.margin) == (
        [],
        None,
        0,
    )


def test_parts_add_up_to_the_median_of_the_whole():
    rows = [
        [1.0, 5.0, 1.0],
        [5.0, 1.0, 1.0],
        [1.0, 1.0, 5.0],
    ]  # each step is disturbed once, each part in one of three
    assert timing._medians(rows) == pytest.approx([7 / 3] * 3)


def test_an_unknown_dtype_is_refused(checkpoint, tmp_path, capsys):
    run("profile", checkpoint, "--run", tmp_path, "--dtype", "fp64", code=2)
    assert "fp64" in capsys.readouterr().err
    assert not (tmp_path / "latency.json").exists()
