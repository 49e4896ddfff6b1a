"""The gated delta rule against a loop in float64, transformers' functions, and, in one row of
documents, what fla's kernels are given.
"""

import sys
from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from transformers.models.qwen3_next import modeling_qwen3_next as theirs

from minipuzzle.kernels import choose, delta
from minipuzzle.kinds import DeltaNet

SHAPES = {"one head a key": (2, 2, 16, 16), "three heads a key": (2, 6, 12, 20)}


def inputs(length, shape="three heads a key", slow=False, batch=2, seed=0):
    """q and k of length 1, v, decay and beta up to 2, float64."""
    groups, heads, keys, values = SHAPES[shape]
    g = torch.Generator().manual_seed(seed)
    rand = lambda *s: torch.randn(batch, length, *s, generator=g, dtype=torch.float64)  # noqa: E731
    q, k = (torch.nn.functional.normalize(rand(groups, keys), dim=-1) for _ in range(2))
    decay = -torch.nn.functional.softplus(rand(heads) - (4 if slow else 0)) * 3
    return [q, k, rand(heads, values), decay, 2 * torch.sigmoid(rand(heads))]


def loop(q, k, v, decay, beta, documents=None, state=None):
    """The rule of the docstring, a token at a time; states [b, h, p, w]."""
    ratio, rows = v.shape[2] // k.shape[2], []
    q, k = (t.repeat_interleave(ratio, 2) for t in (q, k))
    shape = (len(v), v.shape[2], k.shape[3], v.shape[3])
    state = torch.zeros(shape, dtype=v.dtype) if state is None else state
    for t in range(v.shape[1]):
        if documents is not None and t:
            state = state * (documents[:, t] == documents[:, t - 1])[:, None, None, None]
        state = state * decay[:, t].exp()[..., None, None]
        told = torch.einsum("bhpw,bhp->bhw", state, k[:, t])
        error = beta[:, t, :, None] * (v[:, t] - told)
        state = state + torch.einsum("bhp,bhw->bhpw", k[:, t], error)
        rows.append(torch.einsum("bhpw,bhp->bhw", state, q[:, t]) * q.shape[-1] ** -0.5)
    return torch.stack(rows, 1), state


def near(got, want, bound=1e-5):
    assert (got - want).abs().max() < bound * want.abs().max().clamp(min=1e-2)


DOCUMENTS = torch.tensor([[0] * 30 + [1] * 34 + [2] * 3 + [5] * 83, [0] * 64 + [1] * 64 + [3] * 22])


@pytest.mark.parametrize("length", [1, 5, 64, 150])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slow", [False, True])
def test_rule_and_gradients_are_the_loop(length, packed, shape, slow):
    exact = inputs(length, shape, slow)
    documents = DOCUMENTS[:, :length] if packed else None
    _, heads, keys, values = SHAPES[shape]
    generator = torch.Generator().manual_seed(9)
    start = torch.randn(2, heads, keys, values, dtype=torch.float64, generator=generator)
    doubles = [t.clone().requires_grad_() for t in (*exact, start)]
    singles = [t.float().requires_grad_() for t in (*exact, start)]
    want, last = loop(*doubles[:5], documents, doubles[5])
    got, state = delta.delta_rule(*singles[:5], documents=documents, initial_state=singles[5])
    near(got, want)
    near(state, last)
    weights = torch.linspace(-1, 1, want.numel(), dtype=torch.float64).view_as(want)
    ((want * weights).sum() + last.sum()).backward()
    ((got * weights.float()).sum() + state.sum()).backward()
    for single, double in zip(singles, doubles, strict=True):
        error = (single.grad - double.grad).norm()
        assert error < 1e-5 * double.grad.norm().clamp(min=1e-2)


@pytest.mark.parametrize("length", [40, 130])
def test_it_is_transformers_functions(length):
    q, k, v, decay, beta = (t.float() for t in inputs(length))
    raw = {"g": decay, "beta": beta, "output_final_state": True}
    got = delta.delta_rule(q, k, v, decay, beta)
    for function in (theirs.torch_chunk_gated_delta_rule, theirs.torch_recurrent_gated_delta_rule):
        for ours, want in zip(got, function(q, k, v, **raw), strict=True):
            near(ours, want)
    assert (delta.l2_norm(3 * v) - theirs.l2norm(3 * v)).abs().max() < 1e-6


def test_two_calls_and_steps_go_on():
    exact = inputs(103)
    want, last = loop(*exact)
    singles = [t.float() for t in exact]
    first, state = delta.delta_rule(*(t[:, :70] for t in singles))
    second, state = delta.delta_rule(*(t[:, 70:100] for t in singles), initial_state=state)
    near(torch.cat((first, second), 1), want[:, :100])
    for t in range(100, 103):
        q, k, v, decay, beta = (part[:, t] for part in singles)
        near(delta.delta_step(q, k, v, state, decay, beta), want[:, t])
    near(state, last)


@pytest.fixture
def fla(monkeypatch):
    """``kernels.delta_cuda`` over functions of fla's signatures that run the loop."""

    def chunk(*, q, k, v, g, beta, initial_state=None, output_final_state, cu_seqlens=None):
        assert output_final_state
        q, k, v, g, beta = (t.double() for t in (q, k, v, g, beta))
        initial_state = None if initial_state is None else initial_state.double()
        if cu_seqlens is None:
            return loop(q, k, v, g, beta, state=initial_state)
        assert len(q) == 1
        assert cu_seqlens.dtype == torch.int64
        parts = []
        for i, (a, b) in enumerate(pairwise(cu_seqlens)):
            own = None if initial_state is None else initial_state[i : i + 1]
            parts.append(loop(*(t[:, a:b] for t in (q, k, v, g, beta)), state=own))
        return torch.cat([y for y, _ in parts], 1), torch.cat([state for _, state in parts])

    own = SimpleNamespace(chunk_gated_delta_rule=chunk, fused_recurrent_gated_delta_rule=chunk)
    monkeypatch.setitem(sys.modules, "fla", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "fla.ops", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "fla.ops.gated_delta_rule", own)
    yield import_module("minipuzzle.kernels.delta_cuda")
    sys.modules.pop("minipuzzle.kernels.delta_cuda")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("started", [False, True])
def test_flas_kernels_are_given_documents_as_one_row(fla, packed, started):
    tensors = inputs(150)
    documents = DOCUMENTS if packed else None
    start = torch.randn(2, 6, 12, 20, dtype=torch.float64) if started else None
    want, last = loop(*tensors, documents, start)
    got, state = fla.delta_rule(*tensors, documents=documents, initial_state=start)
    near(got, want)
    near(state, last)
    q, k, v, decay, beta = (t[:, 7] for t in tensors)
    again = last.clone()
    wanted = delta.delta_step(q, k, v, again, decay, beta)
    near(fla.delta_step(q, k, v, last, decay, beta), wanted)
    near(last, again)


def test_choose_says_how_the_rule_runs():
    kernels = choose(torch.device("cpu"))
    block = DeltaNet(hidden=8, key_groups=1, group_heads=1, key_dim=4, value_dim=4)
    if not torch.cuda.is_available():
        assert kernels.describe([block]).endswith("delta rule: reference (no CUDA device)")
    assert "delta rule" not in kernels.describe([])


@pytest.mark.gpu
@pytest.mark.parametrize("packed", [False, True])
def test_flas_kernels_are_the_rule(packed):
    pytest.importorskip("fla")
    fast = choose(torch.device("cuda"))
    tensors = [t.to("cuda", torch.bfloat16) for t in inputs(150)]
    documents = DOCUMENTS.cuda() if packed else None
    want, last = delta.delta_rule(*(t.float() for t in tensors), documents=documents)
    got, state = fast.delta_rule(*tensors, documents=documents)
    near(got.float(), want, 2e-2)
    near(state, last, 2e-2)
