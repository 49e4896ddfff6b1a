"""The gated delta rule a token at a time, and inputs of it, for tests of its kernels."""

import torch

SHAPES = {"one head a key": (2, 2, 16, 16), "three heads a key": (2, 6, 12, 20)}


def inputs(length, shape=SHAPES["three heads a key"], slow=False, batch=2, seed=0):
    """q and k of length 1, v, decay and beta up to 2, float64."""
    groups, heads, keys, values = shape
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
    state = torch.zeros(shape, dtype=v.dtype, device=v.device) if state is None else state
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
