"""What a changed block does to the end of the model: each variant's stream against the whole
parent's, by a metric (``minipuzzle.importance.metrics``).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.errors import UserError
from minipuzzle.importance.metrics import find
from minipuzzle.importance.metrics.base import NO_TARGET
from minipuzzle.importance.streams import Streams
from minipuzzle.model.head import matmul_fp32
from minipuzzle.model.norm import RMSNorm
from minipuzzle.ranks import Ranks
from minipuzzle.shapes import Bool, Float, Int

CHUNK_VALUES = 1 << 22
"""FP32 values of hidden states or logits compared at once: 16 MiB, of which a comparison holds a
few.
"""


@torch.no_grad()
def error_sums(
    streams: Streams,
    reference: Float[Tensor, "shared s d"],
    norm: RMSNorm,
    head: Float[Tensor, "v d"] | None,
    tokens: Int[Tensor, "shared s"],
    metric: str,
    ranks: Ranks,
    counted: Bool[Tensor, "shared s"] | None = None,
) -> NDArray[np.float64]:
    """[variants + 1] float64: the sums of the metric of each variant against ``reference``, before
    the final norm, over the samples of all ranks, and the sum to divide them by.

    ``head`` is given where the metric compares logits; ``tokens`` are the text, ``counted`` the
    positions that are compared (None: all).
    """
    measure = find(metric)
    width = reference.shape[-1]
    step = max(1, CHUNK_VALUES // (width if head is None else max(width, head.shape[0])))
    after = torch.full_like(tokens[:, :1], NO_TARGET)
    targets = torch.cat((tokens[:, 1:], after), 1).flatten().to(streams.device)  # [shared * s]
    sums = torch.zeros(len(streams.variants), dtype=torch.float64, device=streams.device)
    scale = 0.0
    whole = reference.flatten(0, 1)  # [shared * s, hidden]
    ends = [streams.variant(v).flatten(0, 1) for v in range(len(streams.variants))]

    def end(hidden: Tensor) -> Tensor:
        normed: Tensor = norm(hidden.to(streams.device).float())
        return normed if head is None else matmul_fp32(normed.to(head.dtype), head.t())

    for start in range(0, len(whole), step):
        part = slice(start, min(start + step, len(whole)))
        rows = slice(None) if counted is None else counted.flatten()[part]
        target = targets[part][rows]
        full = end(whole[part][rows])  # [at most step, hidden or vocab]
        scale += measure.scale(full, target)
        known = measure.prepare(full, target)
        for v, changed in enumerate(ends):
            sums[v] += measure.distance(known, end(changed[part][rows]), target)
    return ranks.sum(np.append(sums.cpu().numpy(), scale))


def errors(sums: NDArray[np.float64], conversations: int) -> NDArray[np.float64]:
    """[variants] float64: the metric of each variant, from the ``error_sums`` of all samples, so
    many of which are ``conversations``.

    Raises: UserError where these are all and no position of them counts.
    """
    if conversations and not sums[-1]:
        raise UserError(
            "No token of these samples carries a loss.",
            got=f"{conversations} blocks of conversations",
            allowed="a turn of the assistant in some of them",
            next="Raise score.block_samples or data.length, or set data.loss_on to all.",
        )
    found: NDArray[np.float64] = sums[:-1] / sums[-1]
    return found
