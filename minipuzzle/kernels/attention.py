"""Attention over a cache: many tokens that follow those in it, or one token a row, each row at its
own position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minipuzzle.shapes import Bool, Float

# The widest heads that PyTorch's flash attention and cuDNN's take.
FLASH_HEAD_DIM = 256
CUDNN_HEAD_DIM = 128
# From so many on cuDNN's attention, which builds a plan for each shape, is worth it.
CUDNN_QUERIES = 1024
# Old keys in one call of cuDNN's: pieces of one shape share a plan.
KEYS_AT_ONCE = 16384


@dataclass(kw_only=True)
class Rows:
    """Where each row of a cache goes on: on the device, so that a captured CUDA graph reads the
    numbers of its replay.

    ``index`` [b] 0..b-1 and ``positions`` [b] int64; ``lengths`` [b] = positions + 1,
    ``query_starts`` and ``key_starts`` [b + 1] int32: where rows begin in queries and in a cache
    laid end to end, as flash attention wants it.
    """

    index: Tensor
    positions: Tensor
    lengths: Tensor
    query_starts: Tensor
    key_starts: Tensor

    @staticmethod
    def of(positions: list[int], capacity: int, device: torch.device) -> Rows:
        """Rows whose next tokens go to ``positions`` of a cache of ``capacity`` tokens a row."""
        places = torch.tensor(positions, dtype=torch.int64, device=device)
        starts = torch.arange(len(positions) + 1, dtype=torch.int32, device=device)
        return Rows(
            index=torch.arange(len(positions), device=device),
            positions=places,
            lengths=(places + 1).to(torch.int32),
            query_starts=starts,
            key_starts=starts * capacity,
        )

    def wrapped(self, capacity: int) -> Rows:
        """The same rows in a ring of ``capacity`` tokens, each the last so many of its row."""
        return Rows(
            index=self.index,
            positions=self.positions % capacity,
            lengths=self.lengths.clamp(max=capacity),
            query_starts=self.query_starts,
            key_starts=self.query_starts * capacity,
        )

    def advance(self) -> None:
        """One token further, in place."""
        self.positions.add_(1)
        self.lengths.add_(1)


def causal_attention(
    q: Float[Tensor, "b s h p"],
    k: Float[Tensor, "b t kv p"],
    v: Float[Tensor, "b t kv p"],
    past: int,
    scale: float | None,
    window: int | None = None,
) -> Float[Tensor, "b s h p"]:
    """Query i sees keys 0..past + i, of these the last ``window``; t = past + s."""
    length, mask = q.shape[1], None
    if window is not None and past + length > window:
        return _windowed(q, k, v, past, scale, window)
    # One query sees all keys; without a past the plain causal mask is right.
    if past and length > 1:
        if not (q.requires_grad and torch.is_grad_enabled()) and _cudnn(q, k):
            return _joined(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), past, scale
            ).transpose(1, 2)
        if _flash(q, k):  # its causal mask ends with the last key, SDPA's begins with the first
            heads = [t.transpose(1, 2) for t in (q, k, v)]
            y: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
                *heads, 0.0, True, scale=scale
            )[0]
            return y.transpose(1, 2)
        # [s, past + s]: row i true up to key past + i
        mask = torch.ones(length, past + length, dtype=torch.bool, device=q.device).tril_(past)
    # PyTorch wants [b, heads, s, d]
    return F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=past == 0,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    ).transpose(1, 2)


def _windowed(
    q: Tensor, k: Tensor, v: Tensor, past: int, scale: float | None, window: int
) -> Tensor:
    """As ``causal_attention``, ``window`` queries at a time: they see at most 2 window - 1 keys,
    so neither time nor a mask grows with the square of the length.
    """
    parts = []
    for start in range(0, q.shape[1], window):
        stop = min(start + window, q.shape[1])
        first = max(0, past + start + 1 - window)
        seen = slice(first, past + stop)
        # query start + i is at key past + start + i: it sees that one and the window - 1 before it
        here = past + start - first
        mask = torch.ones(stop - start, past + stop - first, dtype=torch.bool, device=q.device)
        mask = mask.tril_(here).triu_(here + 1 - window)  # [queries, keys]
        parts.append(masked_attention(q[:, start:stop], k[:, seen], v[:, seen], mask, scale))
    return torch.cat(parts, 1)


def masked_attention(
    q: Float[Tensor, "b s h p"],
    k: Float[Tensor, "b t kv p"],
    v: Float[Tensor, "b t kv p"],
    mask: Bool[Tensor, "*rest s t"],
    scale: float | None,
) -> Float[Tensor, "b s h p"]:
    """Query i sees key j where ``mask`` [s, t], or [b, 1, s, t], is true."""
    ratio = q.shape[2] // k.shape[2]
    # CUDA's kernel for masks wants equal heads; without it all scores are held
    if q.is_cuda and ratio > 1:
        k, v = (t.repeat_interleave(ratio, 2) for t in (k, v))
    return F.scaled_dot_product_attention(
        q.transpose(1, 2),  # [b, heads, s, hd], as PyTorch has it
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    ).transpose(1, 2)


def _joined(q: Tensor, k: Tensor, v: Tensor, past: int, scale: float | None) -> Tensor:
    """The new keys with cuDNN's causal mask, the old ones without, KEYS_AT_ONCE at a time, joined
    by their normalisers. It has no backward pass.

    On Hopper cuDNN's kernel is twice as fast as PyTorch's flash attention, but its mask begins with
    the first key. Pieces of the old keys have one shape, so they share a plan. q [b, h, s, d], k
    and v [b, kv, past + s, d].
    """

    def part(start: int, stop: int, causal: bool) -> tuple[Tensor, Tensor]:
        # y [b, h, s, d] and the logarithm of each query's sum of exponentials [b, h, s, 1]
        y, norm, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            q, k[:, :, start:stop], v[:, :, start:stop], None, True, 0.0, causal, False, scale=scale
        )
        return y, norm.reshape(*q.shape[:3], 1)

    y, norm = part(past, past + q.shape[2], True)
    for start in range(0, past, KEYS_AT_ONCE):
        older, older_norm = part(start, min(past, start + KEYS_AT_ONCE), False)
        # softmax over both sets of keys is their two softmaxes, weighted by their normalisers
        both = torch.logaddexp(norm, older_norm)
        y = y.mul_((norm - both).exp_()).addcmul_(older, (older_norm - both).exp_().to(y.dtype))
        norm = both
    return y


def row_attention(
    q: Float[Tensor, "b 1 h p"],
    keys: Float[Tensor, "b t kv p"],
    values: Float[Tensor, "b t kv p"],
    rows: Rows,
    most: int,
    scale: float | None,
) -> Float[Tensor, "b 1 h p"]:
    """One query a row over its first ``rows.lengths`` keys, none over ``most``."""
    if _flash(q, keys):
        # SDPA has no lengths; a mask would cost flash attention, with its split of long keys over
        # the whole GPU. The cache laid end to end [b * c, kv, d] is b sequences of unequal lengths.
        y: Tensor = torch.ops.aten._flash_attention_forward(
            q[:, 0].contiguous(),
            keys.flatten(0, 1),
            values.flatten(0, 1),
            rows.query_starts,
            rows.key_starts,
            1,
            keys.shape[1],
            0.0,
            False,
            False,
            scale=scale,
            seqused_k=rows.lengths,
        )[0]
        return y[:, None]
    k, v = (t[:, :most].to(q.dtype).transpose(1, 2) for t in (keys, values))  # [b, kv, most, d]
    seen = torch.arange(most, device=q.device) < rows.lengths[:, None]  # [b, most]
    return F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k,
        v,
        attn_mask=seen[:, None, None],
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[1],
    ).transpose(1, 2)


def _flash(q: Tensor, k: Tensor) -> bool:
    """Whether CUDA's flash attention takes these; asked of "meta" tensors, whether it would."""
    fits = q.shape[-1] <= FLASH_HEAD_DIM and q.shape[-1] % 8 == 0
    return (
        fits and not q.is_cpu and q.dtype == k.dtype and q.dtype in (torch.bfloat16, torch.float16)
    )


def _cudnn(q: Tensor, k: Tensor) -> bool:
    """Whether cuDNN's attention takes these and is the faster one; asked of "meta" tensors, whether
    on a Hopper GPU.
    """
    fits = q.shape[1] >= CUDNN_QUERIES and q.shape[-1] <= CUDNN_HEAD_DIM and _flash(q, k)
    return fits and (q.is_meta or torch.cuda.get_device_capability(q.device)[0] >= 9)
