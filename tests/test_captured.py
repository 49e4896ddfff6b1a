"""Where no CUDA graph can be captured, training says so and goes on with the same numbers."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny

from minipuzzle.model import frozen, init_model
from minipuzzle.settings import Training
from minipuzzle.training import captured, distillation
from minipuzzle.training.captured import EAGER, Backward, backward_of
from minipuzzle.training.objectives import next_token
from minipuzzle.units import GIB


def test_a_capture_that_fails_is_said_and_changes_nothing(said):
    model = init_model(tiny(), 0)
    backward = Backward(model, next_token, captures=True)
    plain = Backward(model, next_token, captures=False)
    tokens = torch.randint(
        0, model.architecture.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0)
    )
    for step in range(EAGER + 2):
        results = []
        for one in (backward, plain):
            model.zero_grad(set_to_none=True)
            loss = one(tokens, None)
            results.append((loss.total, [p.grad.clone() for p in model.parameters()]))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
        assert len(said) == (step >= EAGER)
    assert "not as a CUDA graph" in said[0]


def test_a_capture_that_fails_keeps_the_sums_of_a_step(said):
    """Among the micro-batches of a step, of which the ones before have added their gradients."""
    model = init_model(tiny(), 0)
    sums = []
    for captures in (True, False):
        backward = Backward(model, next_token, captures=captures, adds=True)
        model.zero_grad(set_to_none=True)
        for tokens in micro_batches(EAGER + 2):
            backward(tokens, None)
        sums.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(sums[0], sums[1], rtol=0, atol=0)
    assert len(said) == 1


class Replayed:
    """A CUDA graph as far as ``Backward`` uses it: what is captured does not run before a replay,
    and a replay runs it again on the same memory.
    """

    backward: Backward

    def replay(self):
        gradients = [(p, p.grad) for p in self.backward.model.parameters()]
        for p, _ in gradients:  # a graph knows memory, and nothing of what .grad is by now
            p.grad = None
        for p, g in self.backward.gradients:
            p.grad = g
        self.backward.loss = self.backward._run(self.backward.tokens, None)
        for p, g in gradients:
            p.grad = g


@contextmanager
def not_run(graph):
    before = [(p.grad, None if p.grad is None else p.grad.clone()) for p in parameters(graph)]
    yield
    for p, (gradient, values) in zip(parameters(graph), before, strict=True):
        if gradient is not None:
            assert p.grad is gradient, "added to where it lies"
            gradient.copy_(values)


def parameters(graph):
    return list(graph.backward.model.parameters())


def test_replayed_micro_batches_add_up(monkeypatch):
    """Steps of four, the capture in the midst of the first: the same sums as one by one."""
    model = init_model(tiny(), 0)
    unused = model.blocks[0].norm.weight.requires_grad_(False)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Replayed)
    monkeypatch.setattr(captured, "_capturing", not_run)
    backward = Backward(model, next_token, captures=True, adds=True)
    monkeypatch.setattr(Replayed, "backward", backward, raising=False)
    plain = Backward(model, next_token, captures=False)
    for step in range(3):
        found = []
        for one in (backward, plain):
            model.zero_grad(set_to_none=True)
            losses = [one(t, None).total.item() for t in micro_batches(4, seed=step)]
            found.append((losses, [p.grad.clone() for p in model.parameters() if p is not unused]))
            for p in model.parameters():
                if p.grad is not None:
                    p.grad.mul_(7.0)  # as clipping does, in place
        torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)
        assert unused.grad is None
    assert backward.graph is not None


def micro_batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 4096, (2, 16), generator=generator) for _ in range(count)]


@pytest.mark.parametrize(
    ("world", "changes", "captures", "adds"),
    [
        (1, {"batch": 2, "micro_batch": 1}, True, True),
        (2, {"batch": 2, "micro_batch": 1}, True, False),  # one of each process
        (2, {"batch": 4, "micro_batch": 1}, True, True),
        (2, {"batch": 6, "micro_batch": 2}, False, True),  # 2 and 1 rows
        (2, {"batch": 2, "offload": True}, False, False),
    ],
)
def test_which_steps_are_captured(world, changes, captures, adds):
    group = SimpleNamespace(world=world, rank=0, device=torch.device("cuda"))
    model = init_model(tiny(), 0)
    made = backward_of(model, next_token, Training(**changes), group, None, {})
    assert (made.captures, made.adds) == (captures, adds)


def test_a_teacher_in_shards_is_not_captured(monkeypatch):
    """It may be gathered before the capture, and given back between two replays."""
    teacher = frozen(init_model(tiny(), 1))
    assert distillation(teacher).capturable
    teacher.reshard = lambda: None  # as FSDP2 makes it
    assert not distillation(teacher).capturable


@pytest.mark.parametrize(("free", "captured"), [(59, True), (40, False)])
def test_a_graph_of_a_model_in_shards_needs_room(free, captured, monkeypatch, said):
    """What took 40 GiB beside what is held takes 50 as a graph."""
    sizes = {"memory_allocated": 40, "max_memory_reserved": 80, "memory_reserved": 50}
    for name, amount in sizes.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, amount=amount: amount * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((free - 10) * GIB, 140 * GIB))
    model = SimpleNamespace(device=torch.device("cuda"), reshard=lambda: None)
    assert Backward(model, next_token, captures=True)._has_room() == captured
    assert [f"50.00 GiB: {free}.00 GiB are free" in line for line in said] == [True] * (
        not captured
    )
    del model.reshard  # whole: a capture that fails is taken back
    assert Backward(model, next_token, captures=True)._has_room()
