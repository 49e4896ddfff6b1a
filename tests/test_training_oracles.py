"""What training promises, against closed forms: decay, clipping, the guard's limit, the schedule,
the weights of losses.
"""

import math
from contextlib import nullcontext
from dataclasses import replace
from statistics import fmean, pstdev

import pytest
import torch
from conftest import shaken, tiny

from minipuzzle.data import pack
from minipuzzle.ranks import alone
from minipuzzle.settings import Training
from minipuzzle.training import distillation
from minipuzzle.training.guard import Guard
from minipuzzle.training.objectives import BatchLoss
from minipuzzle.training.optimizers import make_optimizer
from minipuzzle.training.schedule import learning_rate
from minipuzzle.training.update import micro_batches, update

SETTINGS = Training(tokens=1, learning_rate=0.01, weight_decay=0.5, clip=1.0)
CPU = torch.device("cpu")


def test_only_matrices_decay():
    """A step at a gradient of 0 leaves what does not decay as it was, and shrinks the rest by rate
    x decay.
    """
    model = shaken(tiny("M-*", vocab=61))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, SETTINGS)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decays = set()
    for name, parameter in model.named_parameters():
        shrunk = torch.allclose(parameter, before[name] * (1 - 0.01 * 0.5), atol=1e-7)
        assert shrunk or torch.equal(parameter, before[name]), name
        decays |= {name} if shrunk else set()
    kept = set(before) - decays
    assert {name.rsplit(".", 2)[-2] for name in decays} == {
        "embeddings",
        "head",
        "in_proj",
        "out_proj",
        "up_proj",
        "down_proj",
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }
    for part in ("norm", "A_log", "dt_bias", "conv", ".D"):
        assert [name for name in kept if part in name], part
        assert not [name for name in decays if part in name], part


def test_adam_is_that_of_the_anchors():
    (group, other) = make_optimizer(shaken(tiny("-", vocab=61)), SETTINGS).param_groups
    for g in (group, other):
        assert (g["betas"], g["eps"], g["lr"]) == ((0.9, 0.95), 1e-8, 0.01)


def step(gradient, clip, guard=None, count=4, total=8.0):
    """One update of a model of which only the final norm has a gradient, which sums over ``count``
    tokens.
    """
    model = shaken(tiny("-", vocab=61))
    weight = model.final_norm.weight
    before = weight.detach().clone()
    sgd = torch.optim.SGD([weight], lr=1.0)

    def backward(tokens, documents):
        weight.grad = gradient.clone() if weight.grad is None else weight.grad + gradient
        return BatchLoss(total=torch.tensor(total), entropy=torch.tensor(2.0), tokens=count)

    parts = iter([(torch.zeros(1, 1, dtype=torch.int64), None)] * 2)
    done = update(
        model,
        backward,
        sgd,
        parts,
        clip=clip,
        guard=guard or Guard(),
        ranks=alone(CPU),
        served=nullcontext,
        votes=lambda: (3.0,),
    )
    assert weight.grad is None
    return done, before - weight.detach()


def test_gradients_are_means_over_tokens_clipped_by_their_norm():
    gradient = torch.zeros(32)
    gradient[:2] = torch.tensor(
        [3.0, 4.0]
    )  # of 2 micro-batches of 4 tokens: mean (0.75, 1.0), norm 1.25
    done, moved = step(gradient, clip=2.0)
    assert (done.loss, done.entropy, done.norm, done.votes) == (
        2.0,
        0.5,
        pytest.approx(1.25),
        (3.0,),
    )
    assert moved[:2].tolist() == pytest.approx([0.75, 1.0])
    done, moved = step(gradient, clip=0.5)
    assert done.norm == pytest.approx(1.25)
    assert moved[:2].tolist() == pytest.approx([0.75 * 0.4, 0.4], rel=1e-5)
    assert moved[2:].abs().max() == 0


def test_a_skipped_step_changes_nothing():
    done, moved = step(torch.full((32,), math.nan), clip=1.0)
    assert "gradient norm nan" in done.skipped
    assert moved.abs().max() == 0
    done, moved = step(torch.ones(32), clip=1.0, total=math.inf)
    assert "loss inf" in done.skipped
    assert moved.abs().max() == 0


@pytest.mark.parametrize("column", [0, 1])
def test_the_guards_limit_is_six_deviations_above_the_recent_mean(column):
    """OLMo-core's SkipStepOptimizer: mean + 6 sigma of the last 128 steps, once there are 64."""
    past = [2.0 + 0.1 * math.sin(i) for i in range(200)]
    usual = (past[-1], past[-1])

    def guarded(count):
        guard = Guard()
        assert not any(guard.accept(value, value) for value in past[:count])
        return guard

    recent = past[200 - 128 :]
    limit = fmean(recent) + 6 * pstdev(recent)
    for value, skips in ((limit - 1e-6, False), (limit + 1e-6, True)):
        row = tuple(value if i == column else usual[i] for i in range(2))
        assert bool(guarded(200).accept(*row)) == skips
    row = tuple(50.0 if i == column else usual[i] for i in range(2))
    assert not guarded(63).accept(*row)
    assert guarded(64).accept(*row)
    assert not guarded(200).accept(-50.0, 1e-9)  # far below is no spike


def test_ten_in_a_row_stop_and_nine_do_not():
    guard = Guard()
    for _ in range(9):
        assert guard.accept(math.nan, 1.0)
    assert not guard.accept(1.0, 1.0)
    for _ in range(9):
        assert guard.accept(1.0, math.inf)
    with pytest.raises(Exception, match="10 steps in a row"):
        guard.accept(math.nan, 1.0)
    assert guard.skipped == 19
    assert guard.history == [(1.0, 1.0)]


def test_the_schedule():
    settings = replace(SETTINGS, learning_rate=1.0, warmup=0.1, final_ratio=0.2)
    rates = [learning_rate(settings, step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.2 + 0.8 / 2)
    assert rates[100] == pytest.approx(0.2)
    assert rates[10 + 30] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 3)) / 2)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert (
        learning_rate(replace(settings, warmup=0.0), 0, 100) == 1.0
    )  # one step of warm-up is the whole rate
    assert learning_rate(replace(settings, warmup=0.5), 0, 1) == 1.0


@pytest.mark.parametrize(
    "name", ["cosine", "forward-kl", "reverse-kl", "jsd", "top-k", "cross-entropy"]
)
def test_each_term_of_a_loss_has_its_weight(name):
    """Beside what F computes in float64: value and gradient of a x forward-kl + b x another."""
    teacher, student = shaken(tiny("-", vocab=61), 0), shaken(tiny("-", vocab=61), 1)
    tokens = torch.randint(0, 61, (2, 16), generator=torch.Generator().manual_seed(3))
    one = distillation(teacher, name)(student, tokens, None).total.item()
    assert one > 0.1
    more = distillation(teacher, f"2.5*{name}")(student, tokens, None).total.item()
    assert more == pytest.approx(2.5 * one, rel=1e-4)
    if name in ("cosine", "cross-entropy"):
        kl = distillation(teacher, f"forward-kl+0.001*{name}")(student, tokens, None)
        both = distillation(teacher, f"forward-kl+3*{name}")(student, tokens, None)
        assert both.total.item() - kl.total.item() == pytest.approx((3 - 0.001) * one, rel=1e-3)


def test_the_cosine_loss_is_torchs():
    teacher, student = shaken(tiny("-", vocab=61), 0), shaken(tiny("-", vocab=61), 1)
    tokens = torch.randint(0, 61, (2, 16), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        a, b = (m.hidden_states(tokens).reshape(-1, 32) for m in (student, teacher))
    want = torch.nn.functional.cosine_embedding_loss(
        a.double(), b.double(), torch.ones(len(a)), reduction="sum"
    )
    found = distillation(teacher, "cosine")(student, tokens, None)
    assert found.total.item() == pytest.approx(want.item(), rel=1e-5)
    assert found.tokens == 32


def test_micro_batches_are_the_share_of_a_process_in_the_streams_order():
    tokens = torch.arange(20 * 8).numpy().astype("uint32")
    blocks = pack([tokens], block_length=8, vocab_size=1000, seed=0, fingerprint="t", text_bytes=1)
    ranks = alone(CPU)
    whole = [
        t.tolist() for t, _ in micro_batches(blocks, replace(SETTINGS, batch=6), 2, ranks, CPU)
    ]
    assert [len(part) for part in whole] == [6]
    parts = [
        t
        for t, _ in micro_batches(blocks, replace(SETTINGS, batch=6, micro_batch=4), 2, ranks, CPU)
    ]
    assert [len(part) for part in parts] == [4, 2]
    assert torch.cat(parts).tolist() == whole[0]
    second = replace(ranks, world=3, rank=1)
    (mine,) = [
        t.tolist() for t, _ in micro_batches(blocks, replace(SETTINGS, batch=6), 2, second, CPU)
    ]
    assert mine == whole[0][2:4]
