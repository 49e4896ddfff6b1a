"""The operations of a Mamba-2 block in plain PyTorch: the oracle of the fast kernels, and what a
CPU runs.

Shapes: b batch, s sequence, h heads, p head_dim, g groups, n state, c channels, k kernel width.
Source: arXiv:2405.21060 (Mamba-2, state-space duality), section 6.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minipuzzle.kernels.chunks import chunk_decays
from minipuzzle.shapes import Bool, Float, Float32, Int


def causal_conv(
    x: Float[Tensor, "b s c"],
    weight: Float[Tensor, "c k"],
    bias: Float[Tensor, " c"] | None,
    documents: Int[Tensor, "b s"] | None,
) -> Float[Tensor, "b s c"]:
    """silu of ``depthwise``."""
    return F.silu(depthwise(x, weight, bias, documents))


def depthwise(
    x: Float[Tensor, "b s c"],
    weight: Float[Tensor, "c k"],
    bias: Float[Tensor, " c"] | None,
    documents: Int[Tensor, "b s"] | None,
) -> Float[Tensor, "b s c"]:
    """The causal convolution of each channel: y_t = bias + sum over i < k of weight_i x_(t-k+1+i).

    With ``documents`` no tap reaches into another document.
    """
    width = weight.shape[1]
    if documents is None:
        # [b, c, k - 1 + s]: zeros before the first token, so that position t sees t - k + 1 .. t
        padded = F.pad(x.transpose(1, 2), (width - 1, 0))
        y = F.conv1d(
            padded,
            weight[:, None].to(x.dtype),
            None if bias is None else bias.to(x.dtype),
            groups=x.shape[2],
        )
        return y.transpose(1, 2)
    # Tap by tap, each masked where it would read from another document.
    total = x * weight[:, -1] if bias is None else x * weight[:, -1] + bias
    for back in range(1, min(width, x.shape[1])):
        same = (documents[:, back:] == documents[:, :-back])[..., None]  # [b, s - back, 1]
        tap = x[:, :-back] * weight[:, -1 - back] * same  # [b, s - back, c], for back tokens later
        total = total + F.pad(tap, (0, 0, back, 0))
    return total.to(x.dtype)


def causal_conv_step(
    x: Float[Tensor, "b c"],
    window: Float[Tensor, "b c k"],
    weight: Float[Tensor, "c k"],
    bias: Float[Tensor, " c"] | None,
) -> Float[Tensor, "b c"]:
    """One token of ``causal_conv``; ``window`` holds the last k inputs and is
    updated in place.
    """
    window.copy_(torch.roll(window, -1, dims=-1))
    window[..., -1] = x
    y = (window.float() * weight.float()).sum(-1)
    return F.silu(y if bias is None else y + bias.float()).to(x.dtype)


def scan(
    x: Float[Tensor, "b s h p"],
    dt: Float[Tensor, "b s h"],
    a: Float[Tensor, " h"],
    b: Float[Tensor, "b s g z"],
    c: Float[Tensor, "b s g z"],
    d: Float[Tensor, " h"],
    *,
    chunk_size: int,
    documents: Int[Tensor, "b s"] | None = None,
    initial_state: Float[Tensor, "b h p z"] | None = None,
) -> tuple[Float[Tensor, "b s h p"], Float32[Tensor, "b h p z"]]:
    """(y [b, s, h, p] in x's dtype, the last state [b, h, p, n] float32) of the selective
    state-space recurrence.

    state_t = state_{t-1} exp(dt_t a) + dt_t x_t B_t^T;  y_t = state_t C_t + d x_t. x [b, s, h, p];
    dt [b, s, h], positive; a [h], negative; b, c [b, s, g, n], shared by the h/g heads of a group;
    d [h]. Inside a chunk the recurrence is a masked matrix product with C B^T computed once per
    group; states pass from chunk to chunk. With ``documents`` [b, s] (ascending) the state is
    cleared where a document begins.
    """
    batch, length, heads, width = x.shape
    groups, size = b.shape[2:]
    ratio, q = heads // groups, min(chunk_size, length)
    pad = -length % q
    chunks = (length + pad) // q
    # Sums over a sequence in FP32. Padding has dt = 0: it decays nothing and adds nothing.
    xf, dt, bf, cf = x.float(), dt.float(), b.float(), c.float()
    if pad:
        xf, bf, cf = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (xf, bf, cf))
        dt = F.pad(dt, (0, 0, 0, pad))
    # Below, [b, chunks, g, h/g, ...] with q the chunk length:
    # u = dt x [.., q, p]; decay [.., q] the running sum of dt a; B, C [b, chunks, g, q, n]
    u = (xf * dt[..., None]).view(batch, chunks, q, groups, ratio, width).permute(0, 1, 3, 4, 2, 5)
    decay = (dt * a.float()).view(batch, chunks, q, groups, ratio).permute(0, 1, 3, 4, 2).cumsum(-1)
    bg = bf.view(batch, chunks, q, groups, size).permute(0, 1, 3, 2, 4)
    cg = cf.view(batch, chunks, q, groups, size).permute(0, 1, 3, 2, 4)
    allowed, carried, reaches_end, whole = chunk_decays(decay, documents, pad)
    # Within a chunk: y_t = sum over s <= t of exp(decay_t - decay_s) (C_t . B_s) u_s  [.., q, p]
    mix = (decay[..., :, None] - decay[..., None, :]).masked_fill(~allowed, float("-inf")).exp()
    y = ((cg @ bg.transpose(-1, -2))[:, :, :, None] * mix) @ u
    # What each chunk adds to the state at its end [.., p, n], then the states from chunk to chunk
    added = (u * reaches_end.exp()[..., None]).transpose(-1, -2) @ bg[:, :, :, None]
    state = u.new_zeros(batch, groups, ratio, width, size)
    if initial_state is not None:
        state = initial_state.float().view_as(state)
    entering, factor = [], whole.exp()
    for i in range(chunks):
        entering.append(state)
        state = state * factor[:, i, ..., None, None] + added[:, i]
    # What the state entering the chunk still gives at t: exp(decay_t) C_t . state
    y = (
        y
        + (cg[:, :, :, None] @ torch.stack(entering, 1).transpose(-1, -2))
        * carried.exp()[..., None]
    )
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, length + pad, heads, width)[:, :length]
    y = y + d.float()[:, None] * x.float()
    return y.to(x.dtype), state.reshape(batch, heads, width, size)


def scan_step(
    x: Float[Tensor, "b h p"],
    state: Float[Tensor, "b h p z"],
    dt: Float[Tensor, "b h"],
    a: Float[Tensor, " h"],
    b: Float[Tensor, "b g z"],
    c: Float[Tensor, "b g z"],
    d: Float[Tensor, " h"],
) -> Float[Tensor, "b h p"]:
    """One token of ``scan``: x [b, h, p], dt [b, h], b and c [b, g, n] -> [b, h, p]; ``state`` is
    updated in place.
    """
    ratio = x.shape[1] // b.shape[1]
    # [b, h, n]: each head its group's
    bh, ch = (t.float().repeat_interleave(ratio, 1) for t in (b, c))
    dt = dt.float()
    # [b, h, p, n]: the state decays by exp(dt a), and takes dt x B^T in
    new = state.float() * (dt * a.float()).exp()[..., None, None]
    new = new + (dt[..., None] * x.float())[..., None] * bh[:, :, None]
    state.copy_(new)
    y = (new * ch[:, :, None]).sum(-1) + d.float()[:, None] * x.float()
    return y.to(x.dtype)


def gated_norm(
    y: Float[Tensor, "*rest c"],
    z: Float[Tensor, "*rest c"],
    weight: Float[Tensor, " c"],
    groups: int,
    eps: float,
    kept: Bool[Tensor, " c"] | None = None,
) -> Float[Tensor, "*rest c"]:
    """RMS norm of y * silu(z), a group at a time. y, z [..., c]; weight [c] -> [..., c] in y's
    dtype.

    ``kept`` [c] bool masks channels: the others give 0 and do not count in the mean, as if they had
    been cut out (arXiv:2504.11409: the norm couples all heads of a group).
    """
    gated = y.float() * F.silu(z.float())  # the gate comes before the norm: norm_before_gate=False
    if kept is not None:
        gated = gated * kept
    grouped = gated.unflatten(-1, (groups, -1))  # [..., g, c / g]
    squares = grouped.square()
    if kept is None:
        mean = squares.mean(-1, keepdim=True)
    else:
        mean = squares.sum(-1, keepdim=True) / kept.view(groups, -1).sum(-1, keepdim=True)
    return ((grouped * torch.rsqrt(mean + eps)).flatten(-2) * weight.float()).to(y.dtype)
