"""fla's function in plain PyTorch against autograd of what it is the gradient of, in float64."""

import sys
from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

C = 8


@pytest.fixture
def backward(monkeypatch):
    """The module over a stand-in for fla's registry."""
    own = {
        "fla": SimpleNamespace(),
        "fla.backends": SimpleNamespace(BaseBackend=object, register=lambda _: lambda c: c),
    }
    for name, module in own.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield import_module("minipuzzle.kernels.delta_backward")
    sys.modules.pop("minipuzzle.kernels.delta_backward")


def pieces(batch, length, starts):
    """(row, first, end) of each chunk, in fla's order."""
    if starts is None:
        spans = [(b, 0, length) for b in range(batch)]
    else:
        spans = [(0, a, e) for a, e in pairwise(starts)]
    return [(b, s, min(s + C, e)) for b, a, e in spans for s in range(a, e, C)]


def local(q, k, v, w, states, sums, chunk, scale):
    """(y, the state that leaves, what tokens write of the state) of a head in a chunk."""
    q, k, v, w, g = (t[chunk] for t in (q, k, v, w, sums))
    powers = torch.exp2(g)[:, None]
    later = torch.ones(len(g), len(g), dtype=torch.bool).triu(1)
    inside = torch.exp2((g[:, None] - g[None]).masked_fill(later, -torch.inf)) * scale * (q @ k.T)
    leaving = torch.exp2(g[-1]) * states + (k * torch.exp2(g[-1] - g)[:, None]).T @ v
    return scale * powers * (q @ states) + inside @ v, leaving, -w @ states


@pytest.mark.parametrize(
    ("batch", "length", "starts"), [(2, 24, None), (2, 13, None), (1, 30, [0, 3, 11, 19, 20, 30])]
)
@pytest.mark.parametrize("steep", [False, True])
def test_it_is_the_gradient(backward, batch, length, starts, steep):
    groups, ratio, keys, values, scale = 2, 3, 5, 7, 0.4
    heads = groups * ratio
    generator = torch.Generator().manual_seed(length)
    rand = lambda *s: torch.randn(*s, generator=generator, dtype=torch.float64)  # noqa: E731
    q, k = rand(batch, length, groups, keys), rand(batch, length, groups, keys)
    v, dy, dv = (rand(batch, length, heads, values) for _ in range(3))
    w = rand(batch, length, heads, keys)
    chunks = pieces(batch, length, starts)
    number = len(chunks) // batch
    states, dstates = (rand(batch, number, heads, keys, values) for _ in range(2))
    sums = torch.zeros(batch, length, heads, dtype=torch.float64)
    for b, a, e in chunks:
        sums[b, a:e] = -(rand(e - a, heads).abs() * (200 if steep else 1)).cumsum(0)
    leaves = [t.clone().requires_grad_() for t in (q, k, w, sums)]
    total = torch.zeros((), dtype=torch.float64)
    for i, (b, a, e) in enumerate(chunks):
        for head in range(heads):
            group = head // ratio
            own = leaves[0][b, :, group], leaves[1][b, :, group], v[b, :, head]
            at = (b, i % number if starts is None else i, head)
            y, leaving, written = local(
                *own, leaves[2][b, :, head], states[at], leaves[3][b, :, head], slice(a, e), scale
            )
            total = total + (y * dy[b, a:e, head]).sum() + (leaving * dstates[at]).sum()
            total = total + (written * dv[b, a:e, head]).sum()
    total.backward()
    indices = None
    if starts is not None:
        indices = [[d, n] for d, (a, e) in enumerate(pairwise(starts))
                   for n in range(-(-(e - a) // C))]  # fmt: skip
        indices, starts = torch.tensor(indices), torch.tensor(starts)
    given = {"q": q, "k": k, "v": v, "do": dy, "h": states, "dh": dstates, "w": w, "dv": dv}
    found = backward.PlainBackend().chunk_bwd_dqkwg(
        **{name: tensor.float() for name, tensor in given.items()},
        g=sums.float(),
        scale=scale,
        chunk_size=C,
        cu_seqlens=starts,
        chunk_indices=indices,
    )
    wanted = [leaf.grad for leaf in leaves]
    wanted[3] = wanted[3] / torch.tensor(2.0).log()  # fla's is of natural logarithms
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape
        assert torch.isfinite(got).all()
        assert (got - want).norm() < 2e-5 * want.norm()


def test_it_says_what_it_is_for(backward):
    backend, one = backward.PlainBackend(), torch.ones(1)
    verify = backend.chunk_bwd_dqkwg_verifier
    assert verify(g=one, w=one, dv=one) == (True, None)
    for other in ({"g": None}, {"w": None}, {"g_gamma": one}, {"state_v_first": True}):
        assert not verify(**{"g": one, "w": one, "dv": one, **other})[0]


@pytest.mark.parametrize(
    ("version", "capability", "wrong"),
    [("3.6.0", 9, True), ("3.4.0", 9, True), ("3.3.1", 9, False), ("3.7.1", 9, False),
     ("3.7.0+git1", 9, True), ("3.6.0", 10, False)],
)  # fmt: skip
def test_it_runs_where_triton_is_wrong(backward, monkeypatch, version, capability, wrong):
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__=version))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (capability, 0))
    assert backward.PlainBackend.is_available() == wrong
