"""What each GPU has whole, and what that takes, by pencil."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny
from test_training_cost import M4, beyond, student_of_8b

from minipuzzle.arch import Architecture
from minipuzzle.cost.distill_plan import DistillPlan
from minipuzzle.kinds import FeedForward
from minipuzzle.memory import CARDS
from minipuzzle.memory.division import fits
from minipuzzle.memory.training import HELD_BACK, LOADED
from minipuzzle.model import HybridLM
from minipuzzle.ranks import Ranks
from minipuzzle.settings import Training
from minipuzzle.training import prepare
from minipuzzle.training.captured import Backward
from minipuzzle.training.objectives import BatchLoss


def test_what_is_whole_by_pencil(monkeypatch):
    """Of 1,000 tokens: the worst moment is where the backward pass comes to the last block."""
    monkeypatch.setattr("minipuzzle.memory.training.WORKSPACES", 0)
    monkeypatch.setattr("minipuzzle.memory.training.loss_bytes", lambda *sizes, **kinds: 0)
    block = FeedForward(hidden=8, intermediate=16)
    model = Architecture(vocab_size=10, hidden=8, blocks=(block,) * 10)
    two, ends, blocks = {"gpus": 2}, 2 * 80, 2 * 10 * block.parameters
    # gathered once all blocks are there, not two, and the embedding
    more = ends + blocks - 4 * block.parameters
    assert beyond(model, **two, gathered=True) - beyond(model, **two) == more
    assert (
        beyond(replace(model, tied_head=True), **two, gathered=True)
        - beyond(replace(model, tied_head=True), **two)
        == more - ends
    )
    # also where blocks are computed again, and where they are frozen
    one = {"trained": 100, "recomputed": model.kinds}
    assert beyond(model, **one, **two, gathered=True) - beyond(model, **one) == 2 * ends + blocks
    # of a teacher in shards the head is gathered
    taught = {**two, "teacher": model}
    assert beyond(model, **taught) - beyond(model, **taught, whole_teacher=True) == ends


@pytest.mark.parametrize(
    ("gib", "recomputed", "whole", "sent"),
    [
        (48, True, "", 23.23),
        (57, True, "teacher + student", 12.15),
        (60, False, "", 23.23),
        (66, False, "teacher", 15.66),
        (76, False, "teacher + student", 12.15),
    ],
)
def test_what_is_whole_where_it_fits(gib, recomputed, whole, sent, monkeypatch):
    """8.10 B to 4.05 B on two GPUs: no recomputation first, then the teacher, then the student;
    planned as a run chooses before and after it has loaded them. GB sent, all in shards: as in a
    profile (docs/results/two_gpus.md).
    """
    teacher, student = student_of_8b(*M4)
    made = DistillPlan(student=student, teacher=teacher, tokens=10**6, length=8192)
    monkeypatch.setitem(CARDS, "h100", replace(CARDS["h100"], memory=gib << 30))
    found, free = made.division(2), (gib << 30) - HELD_BACK
    assert (found.recomputed == {*student.kinds}, found.whole) == (recomputed, whole)
    assert made.exchanged(2) / 1e9 == pytest.approx(sent, abs=0.01)
    assert made.peak(2, recomputed).total <= gib << 30
    monkeypatch.setattr(prepare, "free_for_each", lambda ranks: free)
    group, model = (
        Ranks(rank=0, world=2, device=torch.device("cuda")),
        HybridLM(student, device="meta"),
    )
    how = Training(), 8192, group
    assert prepare.holds_teacher([model], teacher, *how) is found.whole_teacher
    # the largest student decides, and room for what is there besides
    assert not prepare.holds_teacher([model, model], teacher, *how, besides=free // 2)
    offloaded = Training(offload=True), 8192, group
    assert not prepare.holds_teacher([model], teacher, *offloaded)
    peak = made.peak(2, recomputed)
    loaded = sum(size for name, size in peak.terms.items() if name in LOADED)
    assert fits(peak, free, loaded=False) == fits(peak, free - loaded, loaded=True) == (gib > 48)


def test_an_fp8_teacher_is_bf16_while_it_is_loaded(monkeypatch):
    teacher, student = student_of_8b(16, "M-")
    group = Ranks(rank=0, world=2, device=torch.device("cuda"))
    small = HybridLM(replace(student, vocab_size=64), device="meta")
    how = [small], teacher, Training(), 64, group, 0
    for gib, whole in ((14, False), (17, True)):  # 8 GiB of codes, 15 of weights
        monkeypatch.setattr(prepare, "free_for_each", lambda ranks, free=gib << 30: free)
        assert prepare.holds_teacher(*how) is whole


def test_gathers_wait_for_the_optimiser_and_not_for_the_teacher(monkeypatch):
    order, stream = [], SimpleNamespace(record_event=lambda: "now")
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: stream)
    model = HybridLM(tiny("-"))

    def objective(model, tokens, documents):
        order.append("teacher")
        total = model.head_weight.sum().double()
        return BatchLoss(total=total, entropy=torch.zeros_like(total).detach(), tokens=1)

    backward = Backward(model, objective, captures=False)
    backward(torch.zeros(1, 2, dtype=torch.int64), None)  # on a CPU, and whole
    model.reshard, model.set_post_optim_event = None, order.append
    monkeypatch.setattr(HybridLM, "device", torch.device("cuda"))
    backward(torch.zeros(1, 2, dtype=torch.int64), None)
    assert order == ["teacher", "now", "teacher"]


def test_the_gpu_with_the_least_memory_decides(monkeypatch):
    monkeypatch.setattr(prepare, "free_gpu_bytes", lambda device: 7)
    one = SimpleNamespace(device=torch.device("cuda"), least=lambda number: min(number, 5))
    assert prepare.free_for_each(one) == 5
