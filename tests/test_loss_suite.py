"""What must hold for every divergence in minipuzzle/training/divergences and every loss in
minipuzzle/training/losses. A new file there is tested by being there.
"""

import pytest
import torch
from conftest import shaken, tiny
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from minipuzzle.errors import UserError
from minipuzzle.model import HybridLM
from minipuzzle.registry import DIVERGENCES, LOSSES
from minipuzzle.settings import DistillSettings, loss_terms
from minipuzzle.training import answers_only, distillation, divergences, losses, next_token
from minipuzzle.training.losses.base import StateLoss, TargetLoss

N, VOCAB, TOP = 6, 23, 5
NAMES = (*DIVERGENCES.names(), *LOSSES.names())
EVERY_DIVERGENCE = pytest.mark.parametrize("name", DIVERGENCES.names())


def logits(seed):
    return torch.randn(N, VOCAB, generator=torch.Generator().manual_seed(seed)).double()


def value(divergence, student, teacher, tiles=((0, VOCAB),)):
    """[n] nats and the sums [k, n] from logits, a tile of vocabulary entries at a time."""
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    floor = t.topk(TOP).values[:, -1:]
    if divergence.sums is None:  # forward KL, which the softmax statistics give
        return (t.exp() * (t - s)).sum(-1), torch.zeros(0, N)
    sums = sum(divergence.sums(s[:, a:b], t[:, a:b], floor) for a, b in tiles)
    return divergence.value(sums), sums


@EVERY_DIVERGENCE
def test_its_gradient_is_the_derivative_of_its_value(name):
    divergence = divergences.find(name)
    student, teacher = logits(0).requires_grad_(), logits(1)
    total, sums = value(divergence, student, teacher)
    (want,) = torch.autograd.grad(total.sum(), student)
    s, t = student.detach().log_softmax(-1), teacher.log_softmax(-1)
    floor = t.topk(TOP).values[:, -1:]
    found = divergence.gradient(s, t, floor, sums.detach())
    assert torch.allclose(found, want, rtol=1e-9, atol=1e-12)
    # of any entries alone: a gradient is written tile by tile
    part = divergence.gradient(s[:, 7:11], t[:, 7:11], floor, sums.detach())
    assert torch.allclose(part, want[:, 7:11], rtol=1e-9, atol=1e-12)


@EVERY_DIVERGENCE
def test_it_is_0_at_the_teacher_above_elsewhere_and_tiles_add_up(name):
    divergence = divergences.find(name)
    student, teacher = logits(0), logits(1)
    whole, _ = value(divergence, student, teacher)
    assert (whole > 0.01).all()
    assert value(divergence, teacher, teacher)[0].abs().max() < 1e-9
    tiled, _ = value(divergence, student, teacher, tiles=((0, 7), (7, 20), (20, VOCAB)))
    assert torch.allclose(tiled, whole, rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES.names())
def test_a_loss_is_one_of_the_two_that_are_computed(name):
    loss = losses.find(name)
    assert isinstance(loss, StateLoss | TargetLoss)
    if isinstance(loss, StateLoss):
        student, teacher = (logits(seed).float() for seed in (0, 1))
        student.requires_grad_()
        total = loss.value(student, teacher)
        assert (total.dtype, total.shape) == (torch.float64, ())
        assert loss.value(teacher, teacher).item() == pytest.approx(0, abs=1e-5)
        assert total > 0.01
        parts = loss.value(student[:2], teacher[:2]) + loss.value(student[2:], teacher[2:])
        assert parts.item() == pytest.approx(total.item(), rel=1e-6)
        (gradient,) = torch.autograd.grad(total, student)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_student_can_be_trained_by_it(name):
    """It falls along its gradient, and weights scale it."""
    assert loss_terms(f"2*{name}") == {name: 2.0}
    DistillSettings(loss=name)
    registry = DIVERGENCES if name in DIVERGENCES.names() else LOSSES
    assert 10 < len(registry.summaries()[name]) <= 100
    assert registry.names() == tuple(sorted(registry.names()))
    teacher, student = shaken(tiny("M-*", vocab=61), 0), shaken(tiny("M-*", vocab=61), 1)
    tokens = torch.randint(0, 61, (2, 16), generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    before = distillation(teacher, name)(student, tokens, None)
    twice = distillation(teacher, f"2*{name}")(student, tokens, None)
    assert twice.total.item() == pytest.approx(2 * before.total.item(), rel=1e-5)
    before.total.backward()
    norm = sum(p.grad.square().sum() for p in student.parameters()) ** 0.5
    with torch.no_grad():
        for p in student.parameters():
            p -= 0.01 * p.grad / norm
    after = distillation(teacher, name)(student, tokens, None)
    assert 0 < after.tokens == before.tokens
    assert after.total < before.total


@pytest.mark.parametrize("name", NAMES)
def test_what_may_be_captured_asks_nothing_of_the_numbers(name):
    """Fake tensors have none: whatever needs one on the host, or makes a shape of one, raises."""
    with FakeTensorMode():
        student, teacher = (HybridLM(tiny("M-*", vocab=61)) for _ in range(2))
        tokens = torch.zeros(2, 16, dtype=torch.int64)
        for objective in (distillation(teacher, name), next_token):
            assert objective.capturable
            objective(student, tokens, None).total.backward()
        assert not answers_only().capturable
        with pytest.raises(DynamicOutputShapeException):
            answers_only()(student, tokens, tokens)


def test_unknown_losses_and_two_divergences_are_refused():
    for find in (divergences.find, losses.find):
        with pytest.raises(UserError, match="There is no"):
            find("jsb")
    two = "+".join(DIVERGENCES.names()[:2])
    for wrong in ("jsb", two):
        with pytest.raises(UserError, match="not known") as caught:
            loss_terms(wrong)
        assert all(name in caught.value.allowed for name in NAMES)
