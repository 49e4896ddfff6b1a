"""Latency tables of blocks with several axes: each is measured alone, ratios are multiplied. The
oracle is a clock that a pencil can follow.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from conftest import tiny

from minipuzzle import timing
from minipuzzle.arch import Architecture
from minipuzzle.cost.latency import LatencyTable, model_ms
from minipuzzle.errors import UserError
from minipuzzle.kernels import choose
from minipuzzle.kinds import Experts
from minipuzzle.profile import forms, profile
from minipuzzle.runs.profile import some_students
from minipuzzle.settings import parse_work

WORK = parse_work("b1,p32,o4")
CPU = torch.device("cpu")
AROUND = 0.5
MOE = Experts(hidden=32, experts=8, top_k=4, expert_width=64, shared_width=64)


def product(block):
    """Each axis has a factor of its own, a straight line."""
    if block.kind != "moe":
        return 3.0
    factors = (2 + block.experts, 1 + block.top_k, 9 + block.expert_width, 50 + block.shared_width)
    return 1e-4 * factors[0] * factors[1] * factors[2] * factors[3]


def total(block):
    """What is routed and what is shared add up, which ratios get wrong where both are smaller."""
    if block.kind != "moe":
        return 3.0
    return 0.01 * block.top_k * block.expert_width + 0.04 * block.shared_width


def parent_of():
    mixed = tiny("M*", vocab=64)
    return Architecture(vocab_size=64, hidden=32, blocks=(*mixed.blocks, MOE))


def table(monkeypatch, cost):
    def turn(model, phase, work, inside):
        ms = [AROUND, *map(cost, model.architecture.blocks), AROUND]
        return ms if inside else [sum(ms)]

    monkeypatch.setattr(timing, "_turn", turn)
    machine = timing.Machine(device=CPU, dtype=torch.float32, kernels=choose(CPU), rounds=1)
    parent = parent_of()
    return profile(parent, [WORK], machine, widths=4, checked=some_students(parent, 6, seed=0))


def test_each_axis_is_measured_alone_and_several_are_multiplied(monkeypatch, tmp_path):
    parent = parent_of()
    assert len(forms(parent, 4)) == 1 + 4 * 3  # experts, widths and choices, three sizes each
    assert forms(tiny("M-*"), 4) == [(0, 0.0), (0, 1 / 3), (0, 2 / 3), (0, 1.0)]
    known = table(monkeypatch, product)
    known.save(tmp_path / "latency.json")
    known = LatencyTable.load(tmp_path / "latency.json")
    for experts, top_k, width, shared in itertools.product(
        (8, 6, 5), (4, 3, 2), (64, 40, 17), (64, 32)
    ):
        made = replace(MOE, experts=experts, top_k=top_k, expert_width=width, shared_width=shared)
        for phase in ("prefill", "decode"):
            assert known.ms(made, phase, WORK, parent) == pytest.approx(product(made))
    assert model_ms(known, parent, "decode", WORK) == pytest.approx(2 * AROUND + 6 + product(MOE))
    assert known.meta["worst_additivity_error"] == pytest.approx(0, abs=1e-9)


def test_what_ratios_get_wrong_is_in_the_additivity_error(monkeypatch):
    known, parent = table(monkeypatch, total), parent_of()
    for changes in ({"top_k": 2}, {"expert_width": 24}, {"shared_width": 16}, {"experts": 6}):
        made = replace(MOE, **changes)
        assert known.ms(made, "decode", WORK, parent) == pytest.approx(total(made))
    both = replace(MOE, expert_width=32, shared_width=32)
    whole = total(MOE)
    alone = [total(replace(MOE, **{axis: 32})) for axis in ("expert_width", "shared_width")]
    assert known.ms(both, "decode", WORK, parent) == pytest.approx(alone[0] * alone[1] / whole)
    assert known.meta["worst_additivity_error"] > 0.005


@pytest.mark.parametrize(
    ("block", "named"),
    [
        (replace(MOE, expert_width=4), "expert_width 4"),  # less than an eighth
        (replace(MOE, experts=9), "experts 9"),
        (replace(MOE, gated=True), "moe block of"),
        (replace(MOE, latent=16), "latent 16"),
        (replace(tiny("M").blocks[0], state=4), "state 4"),
        (replace(tiny("M").blocks[0], head_dim=4), "head_dim 4"),
    ],
)
def test_what_was_not_measured_is_refused_by_name(monkeypatch, block, named):
    known = table(monkeypatch, product)
    with pytest.raises(UserError, match="no such time") as caught:
        known.ms(block, "decode", WORK, parent_of())
    assert named in caught.value.got
