"""What a recurrence that decays remembers within a chunk of a sequence, and from chunk to chunk."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minipuzzle.shapes import Bool, Float32, Int


def chunk_decays(
    decay: Float32[Tensor, "b k g c q"], documents: Int[Tensor, "b s"] | None, pad: int
) -> tuple[
    Bool[Tensor, "*rest q q"],
    Float32[Tensor, "b k g c q"],
    Float32[Tensor, "b k g c q"],
    Float32[Tensor, "b k g c"],
]:
    """(which tokens see which, from the chunk's start to t, from t to its end, through it), the
    last three as logarithms.

    ``decay`` [b, chunks, g, h/g, q]: the running sum of the logarithms in each chunk of q tokens;
    the last ``pad`` tokens are no part of the sequence. What must not pass from one document into
    the next decays to exp(-inf) = 0.
    """
    q = decay.shape[-1]
    allowed = torch.ones(q, q, dtype=torch.bool, device=decay.device).tril()
    carried, reaches_end, whole = decay, decay[..., -1:] - decay, decay[..., -1]
    if documents is None:
        return allowed, carried, reaches_end, whole
    ids = F.pad(documents, (0, pad), value=-1) if pad else documents
    ids = ids.view(*decay.shape[:2], q)
    allowed = allowed & (ids[..., :, None] == ids[..., None, :])[:, :, None, None]
    # [b, chunks, 1]: the document whose state enters each chunk
    before = torch.cat((ids[:, :1, :1], ids[:, :-1, -1:]), 1)
    never = float("-inf")
    carried = decay.masked_fill((ids != before)[:, :, None, None], never)
    last = ids[..., -1:]
    if pad:  # the last chunk ends with padding, the document before it counts
        last = torch.cat((last[:, :-1], documents[:, None, -1:]), 1)
    reaches_end = reaches_end.masked_fill((ids != last)[:, :, None, None], never)
    whole = whole.masked_fill((last != before)[..., None], never)
    return allowed, carried, reaches_end, whole
