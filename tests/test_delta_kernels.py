"""The gated delta rule against a loop in float64, transformers' functions, and, in one row of
documents, what fla's kernels are given.
"""

import sys
from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from delta_loop import DOCUMENTS, SHAPES, inputs, loop, near
from transformers.models.qwen3_next import modeling_qwen3_next as theirs

from minipuzzle.kernels import choose, delta
from minipuzzle.kinds import DeltaNet


@pytest.mark.parametrize("length", [1, 5, 64, 150])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slow", [False, True])
def test_rule_and_gradients_are_the_loop(length, packed, shape, slow):
    exact = inputs(length, SHAPES[shape], slow)
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
        assert q.shape[2] == k.shape[2] == 1  # one tuning for every number of key groups
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

    class Step:
        def __getitem__(self, grid):
            assert grid == (2 * 2 * 6,)  # 20 values 16 at a time, rows, heads
            return self

        def __call__(self, *, q, k, v, g, beta, o, h0, ht, scale, T, H, HV, K, V, BK, BV, **_):
            assert (T, H, HV, K, V, BK, BV) == (1, 2, 6, 12, 20, 16, 16)
            assert all(t.is_contiguous() for t in (q, k, v, g, beta, o, h0))
            y, last = loop(*(t[:, None] for t in (q, k, v, g, beta)), state=h0)
            o.copy_(y[:, 0] * K**0.5 * scale)
            ht.copy_(last)

    names = ("fla", "fla.ops", "fla.ops.gated_delta_rule")
    own = {
        **{name: SimpleNamespace() for name in names[:2]},
        "fla.backends": SimpleNamespace(BaseBackend=object, register=lambda _: lambda c: c),
        names[2]: SimpleNamespace(chunk_gated_delta_rule=chunk),
        f"{names[2]}.fused_recurrent": SimpleNamespace(
            fused_recurrent_gated_delta_rule_fwd_kernel=Step()
        ),
    }
    for name, module in own.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield import_module("minipuzzle.kernels.delta_cuda")
    sys.modules.pop("minipuzzle.kernels.delta_cuda")
    sys.modules.pop("minipuzzle.kernels.delta_backward", None)


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
    with pytest.raises(ValueError, match="strides"):
        fla.delta_step(q, k, v, last.transpose(2, 3), decay, beta)


def test_choose_says_how_the_rule_runs():
    kernels = choose(torch.device("cpu"))
    block = DeltaNet(hidden=8, key_groups=1, group_heads=1, key_dim=4, value_dim=4)
    if not torch.cuda.is_available():
        assert kernels.describe([block]).endswith("delta rule: reference (no CUDA device)")
    assert "delta rule" not in kernels.describe([])
