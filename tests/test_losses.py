"""Every loss against float64 with full logits, and what BF16 costs where student and teacher nearly
agree.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import shaken, tiny

from minipuzzle.errors import UserError
from minipuzzle.kernels import pointwise
from minipuzzle.memory import loss as memory
from minipuzzle.registry import DIVERGENCES
from minipuzzle.settings import DistillSettings, loss_terms
from minipuzzle.training import distillation, head_loss, loss_tiles
from minipuzzle.training.divergences import find
from minipuzzle.training.head_loss import linear_loss
from minipuzzle.training.loss_tiles import tile_sizes


def exact(name, s, t):
    """The loss [n] of float64 log probabilities, through PyTorch's own divergences."""
    kl = lambda p, q: F.kl_div(q, p, log_target=True, reduction="none").sum(-1)  # noqa: E731
    if name == "forward-kl":
        return kl(t, s)
    if name == "reverse-kl":
        return kl(s, t)
    if name.startswith("jsd"):
        beta = {"jsd": 0.5, "jsd-10": 0.1, "jsd-90": 0.9}[name]  # the teacher's share
        m = torch.logaddexp(t + math.log(beta), s + math.log(1 - beta))
        return beta * kl(t, m) + (1 - beta) * kl(s, m)
    ids = t.topk(10, -1).indices  # top-k: k words and the rest as one more
    buckets = [
        torch.cat((x.gather(1, ids), (-x.gather(1, ids).exp().sum(-1, keepdim=True)).log1p()), 1)
        for x in (t, s)
    ]
    return kl(*buckets)


def problem(n=30, vocab=300, width=12, teacher_width=20, dtype=torch.float32, scale=1.0):
    g = torch.Generator().manual_seed(0)
    shapes = ((n, width), (vocab, width), (n, teacher_width), (vocab, teacher_width))
    return [(torch.randn(*s, generator=g) * scale).to(dtype) for s in shapes]


def error(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize("way", ["one pass", "one pass, few rows", "one tile", "many tiles"])
@pytest.mark.parametrize("name", DIVERGENCES.names())
def test_equals_full_logits_in_float64(name, way, monkeypatch):
    monkeypatch.setattr(loss_tiles, "TOP_K", 10)
    if "tile" in way:
        monkeypatch.setattr(head_loss, "makes_logits_once", lambda *of: False)
    if way == "many tiles":
        monkeypatch.setattr(loss_tiles, "TILE_TOKENS", 7)
        monkeypatch.setattr(loss_tiles, "TILE_BYTES", 1)
    if "few" in way:
        monkeypatch.setattr(memory, "rows_at_a_time", lambda vocab: 8)
        monkeypatch.setattr(memory, "rows_collected", lambda vocab: 16)
    hidden, head, other, other_head = problem()
    targets = torch.randint(0, 300, (30,), generator=torch.Generator().manual_seed(1))
    doubles = [t.double().requires_grad_() for t in (hidden, head)]
    s = torch.log_softmax(doubles[0] @ doubles[1].t(), -1)
    t = torch.log_softmax(other.double() @ other_head.double().t(), -1)
    want = 0.7 * exact(name, s, t).sum() + 0.2 * F.nll_loss(s, targets, reduction="sum")
    (want * 3).backward()
    hidden.requires_grad_(), head.requires_grad_()
    found = linear_loss(
        hidden,
        head,
        (other, other_head),
        targets,
        divergence=find(name),
        weight=0.7,
        target_weight=0.2,
    )
    (found.total * 3).backward()
    assert found.total.item() == pytest.approx(want.item(), rel=1e-5)
    entropy = torch.distributions.Categorical(logits=t).entropy().sum().item()
    assert found.entropy.item() == pytest.approx(entropy, rel=1e-5)
    assert error(hidden.grad, doubles[0].grad) < 1e-5
    assert error(head.grad, doubles[1].grad) < 1e-5


def test_tiles_fit_their_budget():
    """131,072 words x 8,192 channels, 8,192 tokens: a tile and the FP32 gradient of the states stay
    under 1.2 GiB.
    """
    rows, words = tile_sizes(8192, 131072, 8192, 8192)
    assert (rows, 131072 % words) == (4096, 0)
    tile = rows * words * 10 + words * 8192 * (4 + 4)
    assert tile <= loss_tiles.TILE_BYTES
    assert tile + 8192 * 8192 * 4 < 1.2 * 2**30
    assert tile_sizes(4096, 4096, 192, 192) == (
        4096,
        4096,
    )  # the embedded model: one tile, its logits are made once
    assert tile_sizes(5000, 1001, 64, 0) == (2500, 1001)


def test_logits_are_made_once_where_memory_allows():
    def head(vocab, width, dtype, grad=True):
        return torch.empty(vocab, width, dtype=dtype, device="meta", requires_grad=grad)

    bf16, fp32 = torch.bfloat16, torch.float32
    teacher = head(131072, 2048, bf16, False)

    def once(*own, tokens=8192, other=teacher):
        return head_loss.makes_logits_once(tokens, head(131072, *own), other, bf16)

    assert once(4096, fp32)  # FP32 masters, 8 B parameters: a BF16 copy of 1 GiB
    assert not once(4096, fp32, other=head(131072, 2048, fp32, False))  # and one of the teacher's
    assert not once(8192, fp32)
    assert once(8192, bf16)  # sharded: one product makes its BF16 gradient
    assert not once(8192, bf16, tokens=8193)
    assert once(8192, bf16, False, tokens=1 << 20)  # a frozen head


def test_bytes_of_the_loss_by_pencil():
    gib, vocab = 2**30, 131072
    once = {"copies": 0, "rounded": True}
    # FP32 logits of 512 tokens of both models, BF16 gradients of all
    assert memory.loss_bytes(8192, vocab, **once) == gib // 2 + 2 * gib
    assert memory.loss_bytes(1024, vocab, **once) == gib // 2 + gib // 4
    assert memory.loss_bytes(256, vocab, **once) == gib // 4 + gib // 16
    assert memory.loss_bytes(8193, vocab, **once) == memory.TILE_BYTES
    # two products of 8,192 tokens; a copy of a head
    assert memory.loss_bytes(16384, vocab, copies=gib, rounded=False) == 3.5 * gib
    assert memory.loss_bytes(16384, vocab, copies=gib + 1, rounded=False) == memory.TILE_BYTES
    assert memory.rows_collected(50_000) == 1024 * (2**31 // (2 * 50_000) // 1024)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_a_head_in_bf16(dtype, monkeypatch):
    """One product makes it, in one rounding; of more tokens than are collected it is summed in
    FP32.
    """
    hidden, head, other, other_head = problem()
    head = head.bfloat16()
    doubles = [t.double().requires_grad_() for t in (hidden.to(dtype), head)]
    s = torch.log_softmax(doubles[0] @ doubles[1].t(), -1)
    t = torch.log_softmax(other.to(dtype).double() @ other_head.to(dtype).double().t(), -1)
    F.kl_div(s, t, log_target=True, reduction="sum").backward()
    leaf = head.clone().requires_grad_()
    for rows in (16384, 8):
        monkeypatch.setattr(memory, "rows_collected", lambda vocab, rows=rows: rows)
        monkeypatch.setattr(memory, "rows_at_a_time", lambda vocab: 8)
        monkeypatch.setattr(head_loss, "makes_logits_once", lambda *of: True)
        leaf.grad = None
        linear_loss(hidden.to(dtype), leaf, (other.to(dtype), other_head)).total.backward()
        assert leaf.grad.dtype == torch.bfloat16
        assert error(leaf.grad, doubles[1].grad) < 3e-3


def test_no_tokens_have_a_gradient():
    """Of several processes one may have none, and all sum what they have."""
    leaves = [t.requires_grad_() for t in problem(n=0)[:2]]
    linear_loss(*leaves, targets=torch.empty(0, dtype=torch.int64)).total.backward()
    assert all(torch.equal(t.grad, torch.zeros_like(t)) for t in leaves)


def test_frozen_head_or_states_and_no_teacher():
    hidden, head, *_ = problem()
    targets = torch.arange(30)
    want = F.cross_entropy(hidden.double() @ head.double().t(), targets, reduction="sum").item()
    for leaf in (hidden, head):
        leaf.requires_grad_()
        found = linear_loss(hidden, head, targets=targets)
        found.total.backward()
        assert found.total.item() == pytest.approx(want, rel=1e-5)
        assert found.entropy.item() == 0
        leaf.grad = None
        leaf.requires_grad_(False)
    assert hidden.grad is None


@pytest.mark.parametrize("noise", [0.02, 0.5])
def test_bf16_keeps_the_gradient(noise):
    """Gradient errors against float64, BF16 states and heads. Rounding the result alone is 1.7e-3;
    the bound is 3e-3.
    """
    torch.manual_seed(0)
    n, d, vocab = 64, 128, 4096
    head = (torch.randn(vocab, d) * 8 / d**0.5).bfloat16()
    teacher = torch.randn(n, d).bfloat16()
    hidden = (teacher.float() + noise * torch.randn(n, d)).bfloat16()
    leaves = [t.double().requires_grad_() for t in (hidden, head)]
    t = torch.log_softmax(teacher.double() @ head.double().t(), -1)
    want = exact("forward-kl", torch.log_softmax(leaves[0] @ leaves[1].t(), -1), t).sum()
    want.backward()
    ours = [x.clone().requires_grad_() for x in (hidden, head)]
    found = linear_loss(*ours, (teacher, head))
    found.total.backward()
    naive = [x.clone().requires_grad_() for x in (hidden, head)]
    logits = [torch.log_softmax((h @ w.t()).float(), -1) for h, w in (naive, (teacher, head))]
    F.kl_div(*logits, log_target=True, reduction="sum").backward()
    errors = [
        [error(x.grad, e.grad) for x, e in zip(xs, leaves, strict=True)] for xs in (ours, naive)
    ]
    print(
        f"KL {want.item() / n:.3f} nats: ours {errors[0][0]:.2e} {errors[0][1]:.2e}, BF16 logits"
        f" {errors[1][0]:.2e}"
    )
    assert max(errors[0]) < 3e-3
    assert found.total.item() == pytest.approx(want.item(), rel=1e-4)
    if noise == 0.02:
        assert want.item() / n < 0.05
        assert errors[1][0] > 0.1  # the trap


@pytest.mark.parametrize(
    "name", ["forward-kl", "jsd", "top-k+0.5*cosine", "0.5*reverse-kl+0.5*cross-entropy", "cosine"]
)
def test_named_losses_fall_to_zero_at_the_teacher(name):
    teacher, student = shaken(tiny(vocab=61), 0), shaken(tiny(vocab=61), 1)
    tokens = torch.randint(0, 61, (2, 16))
    value = lambda model: distillation(teacher, name)(model, tokens, None)  # noqa: E731
    far, near = value(student), value(teacher)
    assert far.tokens == (30 if "cross" in name else 32)
    far.total.backward()
    assert student.embeddings.weight.grad.abs().sum() > 0
    assert far.total > near.total
    assert near.total.item() == pytest.approx(0, abs=1e-4) or "cross" in name


def test_loss_names():
    assert loss_terms("forward-kl + 0.1*cosine") == {"forward-kl": 1.0, "cosine": 0.1}
    for wrong in ("kl", "forward-kl+jsd", "x*jsd", "-1*jsd", "", "0*jsd"):
        with pytest.raises(UserError, match="not known"):
            DistillSettings(loss=wrong)


def test_what_cuda_compiles_is_one_graph_each():
    """fullgraph raises at a graph break; the "eager" backend runs what was traced without compiling
    it.
    """
    import torch._dynamo

    whole = lambda function: torch.compile(function, fullgraph=True, backend="eager")  # noqa: E731
    student, teacher = torch.randn(6, 40), torch.randn(6, 40)
    running = torch.zeros(6, 6)
    running[:2] = float("-inf")
    high = whole(loss_tiles._largest)(student, teacher, running[:2])
    assert torch.equal(high, torch.stack((student.amax(-1), teacher.amax(-1))))
    got = whole(loss_tiles._statistics)(student, teacher, running, high)
    assert torch.equal(got, loss_tiles._statistics(student, teacher, running, high))
    lse, one = torch.stack((student.logsumexp(-1), teacher.logsumexp(-1))), torch.ones(())
    floor, column = (
        teacher.topk(10, -1).values[:, -1:] - lse[1][:, None],
        torch.randint(0, 40, (6, 1)),
    )
    for divergence in map(find, DIVERGENCES.names()):
        sums = (
            torch.zeros(0, 6)
            if divergence.sums is None
            else divergence.sums(student - lse[0][:, None], teacher, floor)
        )
        arguments = (student, teacher, lse, floor, sums, column, one, divergence.gradient, 0.7, 0.3)
        found, wanted = torch.empty(2, 6, 40, dtype=torch.bfloat16)
        assert whole(loss_tiles._logit_gradient)(*arguments, found) is found
        assert torch.equal(found, loss_tiles._logit_gradient(*arguments, wanted))
    x, weight = torch.randn(2, 3, 8).bfloat16(), torch.randn(8)
    for function, arguments in (
        (pointwise._rms_norm, (x, weight, 1e-5, x.dtype)),
        (pointwise._relu_squared, (x,)),
    ):
        assert torch.equal(whole(function)(*arguments), function(*arguments))
    want = torch.nn.functional.rms_norm(x.float(), (8,), weight, 1e-5)
    assert torch.allclose(pointwise._rms_norm(x, weight, 1e-5, torch.float32), want, atol=1e-6)
    assert torch.equal(pointwise._relu_squared(x), pointwise.relu_squared(x))
    torch._dynamo.reset()
