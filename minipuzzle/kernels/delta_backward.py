"""One function of fla's backward pass in plain PyTorch, for where Triton compiles it wrongly.

Triton 3.4 to 3.7.0 makes wrong gradients of it on Hopper GPUs (flash-linear-attention issue 640),
so that fla-core raises where tilelang is not installed either; PyTorch 2.11 comes with Triton 3.6.

Shapes: b rows of s tokens, m chunks of c tokens in all, g key heads with r heads of values each, p
channels of a key, w of a value. In each chunk, with S the state that enters it, dS the gradient of
the one that leaves it, G the running sum of decays (of powers of 2) and E its last value, v what
tokens write and dv its gradient:

    D = tril(scale 2^(G_i - G_j) (dy v^T))
    dq = scale 2^G dy S^T + D k;  dk = 2^(E - G) v dS^T + D^T q;  dw = -dv S^T
    dG = dq . q - dk . k, and of the last token also 2^E (S . dS) + sum of (2^(E - G) v dS^T) . k
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from fla.backends import BaseBackend, register
from torch import Tensor

from minipuzzle.kernels.pointwise import compiled

BROKEN = (3, 4), (3, 7, 1)
"""Versions of Triton: from the first on, before the second."""
HOPPER = 9


@register("common")
class PlainBackend(BaseBackend):
    """What fla takes where neither its kernel nor tilelang's runs."""

    backend_type = "minipuzzle"
    priority = 9  # after tilelang

    @classmethod
    @cache  # fla looks before every call of every function that has backends
    def is_available(cls) -> bool:
        """Where Triton's is wrong."""
        import triton

        version = tuple(int(part) for part in triton.__version__.split("+")[0].split(".")[:3])
        hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == HOPPER
        return hopper and BROKEN[0] <= version < BROKEN[1]

    def chunk_bwd_dqkwg_verifier(self, **given: Any) -> tuple[bool, str | None]:
        """Only of the gated delta rule."""
        needed = all(given.get(name) is not None for name in ("g", "w", "dv"))
        ours = needed and given.get("g_gamma") is None and not given.get("state_v_first")
        return ours, None if ours else "only the gated delta rule"

    def chunk_bwd_dqkwg(self, **given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``gradients`` of what fla gives."""
        layout = (given["chunk_size"], given["cu_seqlens"], given["chunk_indices"])
        names = ("q", "k", "v", "do", "h", "dh", "w", "g", "dv")
        tensors = [given[name] for name in names]
        return gradients(*tensors, scale=given["scale"], chunks=Chunks(given["q"], *layout))


class Chunks:
    """How tokens [b, s] lie in chunks [m, c]: each row in ones of its own, or, of a row of
    documents, each document in those of ``indices`` [m, 2], (document, number of the chunk).
    """

    def __init__(self, like: Tensor, size: int, starts: Tensor | None, indices: Tensor | None):
        batch, length = like.shape[:2]
        self.size, self.total, device = size, batch * length, like.device
        self.rows: Tensor | None = None
        self.last = torch.full((1,), size - 1, device=device)
        if starts is None and length % size == 0:
            return
        if starts is None:
            starts = torch.arange(batch + 1, device=device) * length
            counts = (batch, -(-length // size))
            grid = torch.meshgrid(*(torch.arange(n) for n in counts), indexing="ij")
            indices = torch.stack([part.flatten() for part in grid], -1).to(device)
        assert indices is not None
        document, number = indices.long().unbind(-1)
        places = starts[document, None] + number[:, None] * size + torch.arange(size, device=device)
        valid = places < starts[document + 1, None]
        self.rows = torch.where(valid, places, self.total)  # one row more, for those beyond
        self.last = valid.sum(1) - 1

    def take(self, x: Tensor, groups: int) -> Tensor:
        """[b, s, g r, d] as [m, g, r, c, d]; zeros beyond an end."""
        x = x.flatten(0, 1)
        if self.rows is None:
            x = x.unflatten(0, (-1, self.size))  # [m, c, g r, d]
        else:
            x = torch.cat((x, x.new_zeros(1, *x.shape[1:])))[self.rows]
        return x.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)

    def put(self, x: Tensor, like: Tensor) -> Tensor:
        """[m, g, r, c, d] as ``like`` [b, s, g r, d], in its dtype."""
        x = x.permute(0, 3, 1, 2, 4).to(like.dtype).flatten(2, 3)
        if self.rows is None:
            return x.reshape(like.shape)
        whole = like.new_zeros(self.total + 1, *like.shape[2:])
        whole[self.rows] = x
        return whole[:-1].view(like.shape)


def gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dy: Tensor,
    states: Tensor,
    dstates: Tensor,
    w: Tensor,
    decays: Tensor,
    dv: Tensor,
    *,
    scale: float,
    chunks: Chunks,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dq, dk [b, s, g, p], dw [b, s, g r, p] in their dtypes, dG [b, s, g r] in FP32) of q, k
    [b, s, g, p], v, dy, dv [b, s, g r, w], states, dstates [.., g r, p, w] of all chunks in order,
    w [b, s, g r, p] and the running sums of decays [b, s, g r] in FP32.
    """
    groups = k.shape[2]
    qs, ks = (chunks.take(t, groups) for t in (q, k))  # [m, g, 1, c, p]
    vs, dys, dvs = (chunks.take(t, groups) for t in (v, dy, dv))  # [m, g, r, c, w]
    sums = chunks.take(decays[..., None], groups)[..., 0]  # [m, g, r, c]
    last = chunks.last.view(-1, 1, 1, 1)
    end = sums.take_along_dim(last, -1)  # [m, g, r, 1]
    places = torch.arange(chunks.size, device=q.device)
    sums = torch.where(places <= last, sums, end)
    heads = (groups, sums.shape[2])
    # [m, g, r, p, w]
    entering, leaving = (
        t.reshape(-1, *t.shape[-3:]).unflatten(1, heads) for t in (states, dstates)
    )
    within = _run(_within, _product(dys, vs.mT), sums, scale, k.dtype)  # [m, g, r, c, c]
    dq, dk, dsums = _run(
        _joined,
        _product(dys, entering.mT),
        _shared(within, ks),
        _product(vs, leaving.mT),
        _shared(within.mT, qs),
        qs,
        ks,
        sums,
        end,
        entering,
        leaving,
        places == last,
        scale,
    )
    return (
        chunks.put(dq, q),
        chunks.put(dk, k),
        chunks.put(-_product(dvs, entering.mT), w),
        chunks.put(dsums[..., None], decays[..., None])[..., 0],
    )


def _run(function: Callable[..., Any], *values: Any) -> Any:
    return compiled(function)(*values) if values[0].is_cuda else function(*values)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of the last two axes, in FP32."""
    shape = (*a.shape[:-1], b.shape[-1])
    a, b = (t.reshape(-1, *t.shape[-2:]) for t in (a, b))
    if a.is_cuda and a.dtype != torch.float32:
        return torch.bmm(a, b, out_dtype=torch.float32).view(shape)
    return torch.bmm(a.float(), b.float()).view(shape)


def _shared(a: Tensor, b: Tensor) -> Tensor:
    """a [m, g, r, c, c] @ b [m, g, 1, c, p], which heads of a group share, in FP32."""
    rows = a.reshape(*a.shape[:2], 1, -1, a.shape[-1])  # [m, g, 1, r c, c]
    return _product(rows, b).view(*a.shape[:-1], b.shape[-1])


def _within(products: Tensor, sums: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """D of the docstring, [m, g, r, c, c]."""
    places = torch.arange(sums.shape[-1], device=sums.device)
    later = places[None, :] > places[:, None]
    powers = (sums[..., :, None] - sums[..., None, :]).masked_fill(later, float("-inf"))
    return (products * torch.exp2(powers) * scale).to(dtype)


def _joined(
    dq: Tensor,
    dq_within: Tensor,
    dk: Tensor,
    dk_within: Tensor,
    q: Tensor,
    k: Tensor,
    sums: Tensor,
    end: Tensor,
    entering: Tensor,
    leaving: Tensor,
    at_end: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk [m, g, 1, c, p], dG [m, g, r, c]) in FP32."""
    q, k = q.float(), k.float()
    dk = dk * torch.exp2(end - sums)[..., None]  # [m, g, r, c, p]
    whole = (entering.float() * leaving.float()).sum((-1, -2))  # [m, g, r]
    whole = torch.exp2(end[..., 0]) * whole + (dk * k).sum((-1, -2))
    dq = dq * (torch.exp2(sums) * scale)[..., None] + dq_within
    dk = dk + dk_within
    dsums = (dq * q).sum(-1) - (dk * k).sum(-1) + at_end * whole[..., None]
    return dq.sum(2, keepdim=True), dk.sum(2, keepdim=True), dsums
