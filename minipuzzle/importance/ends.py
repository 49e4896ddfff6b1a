"""What a changed block does to the end of the model: each variant's stream against the whole
parent's, by a metric (``minipuzzle.importance.metrics``).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.importance.metrics import find
from minipuzzle.importance.metrics.base import NO_TARGET
from minipuzzle.importance.streams import Streams
from minipuzzle.model.head import matmul_fp32
from minipuzzle.model.norm import RMSNorm
from minipuzzle.ranks import Ranks
from minipuzzle.shapes import Float, Int

CHUNK_VALUES = 1 << 22
"""FP32 values of hidden states or logits compared at once: 16 MiB, of which a comparison holds a
few.
"""


@torch.no_grad()
def variant_errors(
    streams: Streams,
    reference: Float[Tensor, "shared s d"],
    norm: RMSNorm,
    head: Float[Tensor, "v d"] | None,
    tokens: Int[Tensor, "shared s"],
    metric: str,
    ranks: Ranks,
) -> NDArray[np.float64]:
    """[variants] float64: the metric of each variant against ``reference``, before the final norm.

    ``head`` is given where the metric compares logits; ``tokens`` are the text. Sums run in
    float64, over the samples of all ranks.
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
        full = end(whole[part])  # [step, hidden or vocab]
        scale += measure.scale(full, targets[part])
        known = measure.prepare(full, targets[part])
        for v, changed in enumerate(ends):
            sums[v] += measure.distance(known, end(changed[part]), targets[part])
    totals = ranks.sum(np.append(sums.cpu().numpy(), scale))
    return totals[:-1] / totals[-1]
