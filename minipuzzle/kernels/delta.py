"""The gated delta rule in plain PyTorch (Gated DeltaNet, arXiv:2412.06464): the oracle of the fast
kernels, and what a CPU runs.

Of each head, with a state S [p, w] of keys and values that begins with 0:

    S' = exp(a_t) S_{t-1};  e_t = beta_t (v_t - S'^T k_t);  S_t = S' + k_t e_t^T;
    y_t = p^-1/2 S_t^T q_t

Shapes: b batch, s sequence, g key heads, h heads of values, each key head's next to each other, p
channels of a key, w those of a value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minipuzzle.kernels.chunks import chunk_decays
from minipuzzle.kernels.pointwise import compiled, compiles
from minipuzzle.shapes import Float, Float32, Int

CHUNK = 64
"""Tokens whose updates are solved for at once."""
EPS = 1e-6
"""Of ``l2_norm``, as in flash-linear-attention."""


def gates(
    ba: Float[Tensor, "b s both"],
    a_log: Float[Tensor, " h"],
    dt_bias: Float[Tensor, " h"],
    beta_scale: float,
) -> tuple[Float32[Tensor, "b s h"], Float32[Tensor, "b s h"]]:
    """(decay, beta) of the rule in FP32, from b and a next to each other: -exp(a_log) x
    softplus(a + dt_bias) and beta_scale x sigmoid(b). On CUDA one compiled kernel.
    """
    run = compiled(_gates) if compiles(ba) else _gates
    return run(ba, a_log, dt_bias, beta_scale)


def _gates(ba: Tensor, a_log: Tensor, dt_bias: Tensor, beta_scale: float) -> tuple[Tensor, Tensor]:
    b, a = ba.float().chunk(2, dim=-1)  # [b, s, h]
    return -a_log.float().exp() * F.softplus(a + dt_bias.float()), beta_scale * torch.sigmoid(b)


def l2_norm(x: Float[Tensor, "b s *rest p"]) -> Float[Tensor, "b s *rest p"]:
    """x / sqrt(sum(x^2) + EPS) over the last axis, inside in FP32; in x's dtype. On CUDA one
    compiled kernel.
    """
    run = compiled(_l2_norm) if compiles(x.flatten(2)) else _l2_norm
    return run(x)


def _l2_norm(x: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + EPS)).to(x.dtype)


def delta_rule(
    q: Float[Tensor, "b s g p"],
    k: Float[Tensor, "b s g p"],
    v: Float[Tensor, "b s h w"],
    decay: Float[Tensor, "b s h"],
    beta: Float[Tensor, "b s h"],
    *,
    documents: Int[Tensor, "b s"] | None = None,
    initial_state: Float[Tensor, "b h p w"] | None = None,
) -> tuple[Float[Tensor, "b s h w"], Float32[Tensor, "b h p w"]]:
    """(y in v's dtype, the last state) of the rule; ``decay`` is a, never above 0.

    Within a chunk what tokens write is found together: token t is told what those before it write,
    N_t = beta_t (v_t - exp(A_t) S^T k_t - sum over s < t of exp(A_t - A_s) (k_t . k_s) N_s) with A
    the running sum of a and S the state that enters, which is a triangular system (section 3.3 of
    arXiv:2406.06484, with decays). With ``documents`` (ascending) the state is cleared where a
    document begins.
    """
    batch, length, groups, keys = k.shape
    heads, values = v.shape[2:]
    ratio, n = heads // groups, min(CHUNK, length)
    pad = -length % n
    chunks = (length + pad) // n
    # Sums over a sequence in FP32. Padding writes nothing and decays nothing.
    qf, kf, vf = (F.pad(t.float(), (0, 0, 0, 0, 0, pad)) for t in (q.float() * keys**-0.5, k, v))
    gates = (F.pad(t.float(), (0, 0, 0, pad)) for t in (decay, beta))
    # Below, [b, chunks, g, h/g, ...] with n the chunk length: q, k [b, chunks, g, 1, n, p], v
    # [.., n, w], the running sum of decays and beta [.., n]
    qf, kf = (t.view(batch, chunks, n, groups, 1, keys).permute(0, 1, 3, 4, 2, 5) for t in (qf, kf))
    vf = vf.view(batch, chunks, n, groups, ratio, values).permute(0, 1, 3, 4, 2, 5)
    total, bf = (t.view(batch, chunks, n, groups, ratio).permute(0, 1, 3, 4, 2) for t in gates)
    total = total.cumsum(-1)
    allowed, carried, reaches_end, whole = chunk_decays(total, documents, pad)
    mix = (total[..., :, None] - total[..., None, :]).masked_fill(~allowed, float("-inf")).exp()
    carried, reaches_end, whole = carried.exp(), reaches_end.exp(), whole.exp()
    # N = fresh - seen @ S: the system's diagonal is 1, whatever stands there
    system = (kf @ kf.transpose(-1, -2)) * mix * bf[..., None]  # [.., n, n]
    written = torch.cat((vf * bf[..., None], kf * (bf * carried)[..., None]), -1)  # [.., n, w + p]
    solved = torch.linalg.solve_triangular(system, written, upper=False, unitriangular=True)
    fresh, seen = solved.split([values, keys], -1)
    within = (qf @ kf.transpose(-1, -2)) * mix  # [.., n, n]
    reading = qf * carried[..., None]  # [.., n, p]
    writing = (kf * reaches_end[..., None]).transpose(-1, -2)  # [.., p, n]
    state = fresh.new_zeros(batch, groups, ratio, keys, values)
    if initial_state is not None:
        state = initial_state.float().view_as(state)
    rows = []
    for i in range(chunks):
        added = fresh[:, i] - seen[:, i] @ state  # [b, g, h/g, n, w]
        rows.append(reading[:, i] @ state + within[:, i] @ added)
        state = state * whole[:, i, ..., None, None] + writing[:, i] @ added
    y = torch.stack(rows, 1).permute(0, 1, 4, 2, 3, 5).reshape(batch, length + pad, heads, values)
    return y[:, :length].to(v.dtype), state.reshape(batch, heads, keys, values)


def by_group(x: Tensor, groups: int, axis: int) -> Tensor:
    """Each of the ``groups`` that lie along ``axis`` as rows of its own: [b, .., g n, ..] becomes
    [g b, .., n, ..].
    """
    return x.unflatten(axis, (groups, -1)).movedim(axis, 0).flatten(0, 1)


def from_groups(x: Tensor, groups: int, axis: int) -> Tensor:
    """What ``by_group`` took: [g b, .., n, ..] becomes [b, .., g n, ..]."""
    return x.unflatten(0, (groups, -1)).movedim(0, axis).flatten(axis, axis + 1)


def delta_step(
    q: Float[Tensor, "b g p"],
    k: Float[Tensor, "b g p"],
    v: Float[Tensor, "b h w"],
    state: Float[Tensor, "b h p w"],
    decay: Float[Tensor, "b h"],
    beta: Float[Tensor, "b h"],
) -> Float[Tensor, "b h w"]:
    """One token of ``delta_rule``; ``state`` is updated in place."""
    ratio = v.shape[1] // k.shape[1]
    scaled = q.float() * q.shape[-1] ** -0.5
    # [b, h, p, 1]: each head its key head's
    qh, kh = (t.float().repeat_interleave(ratio, 1)[..., None] for t in (scaled, k))
    new = state.float() * decay.float().exp()[..., None, None]
    error = beta.float()[..., None] * (v.float() - (new * kh).sum(-2))  # [b, h, w]
    new = new + kh * error[:, :, None]
    state.copy_(new)
    return (new * qh).sum(-2).to(v.dtype)
