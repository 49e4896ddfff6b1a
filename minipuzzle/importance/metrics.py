"""What a changed block does to the end of the model: each variant's stream against the whole
parent's.

"mse": mean squared difference of the hidden states after the final norm, over tokens and channels
(arXiv:2411.19146, replace-one-block; arXiv:2504.03624). "logit-mse": sum (M_full - M_-j)^2 / sum
M_full^2 over logits M (arXiv:2511.16664). "kl": KL(parent || variant) a token, nats. "loss":
increase of the next-token loss, nats a token.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.importance.streams import Streams
from minipuzzle.model.head import matmul_fp32
from minipuzzle.model.norm import RMSNorm
from minipuzzle.ranks import Ranks
from minipuzzle.settings import Metric

CHUNK_VALUES = 1 << 22
"""FP32 values of hidden states or logits compared at once: 16 MiB, of which a comparison holds a
few.
"""


@torch.no_grad()
def variant_errors(
    streams: Streams,
    reference: Tensor,
    norm: RMSNorm,
    head: Tensor | None,
    tokens: Tensor,
    metric: Metric,
    ranks: Ranks,
) -> NDArray[np.float64]:
    """[variants] float64: the metric of each variant against ``reference`` [shared, s, hidden],
    before the final norm.

    ``head`` [vocab, hidden] is used by all metrics but "mse", ``tokens`` [shared, s] int64 by
    "loss". Sums run in float64, over the samples of all ranks.
    """
    length, width = reference.shape[1:]
    step = max(1, CHUNK_VALUES // (width if head is None else max(width, head.shape[0])))
    targets = (
        torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], -100)), 1)
        .flatten()
        .to(streams.device)
    )
    sums = torch.zeros(len(streams.variants), dtype=torch.float64, device=streams.device)
    scale = 0.0
    whole = reference.flatten(0, 1)
    ends = [streams.variant(v).flatten(0, 1) for v in range(len(streams.variants))]

    def end(hidden: Tensor) -> Tensor:
        normed: Tensor = norm(hidden.to(streams.device).float())
        return normed if head is None else matmul_fp32(normed.to(head.dtype), head.t())

    for start in range(0, len(whole), step):
        part = slice(start, min(start + step, len(whole)))
        full = end(whole[part])
        scale += _scale(metric, full, part, length)
        known = _prepared(metric, full, targets[part])
        for v, changed in enumerate(ends):
            sums[v] += _distance(metric, known, end(changed[part]), targets[part])
    totals = ranks.sum(np.append(sums.cpu().numpy(), scale))
    return totals[:-1] / totals[-1]


def _prepared(metric: Metric, full: Tensor, targets: Tensor) -> Tensor:
    """What of the parent every variant is compared with: its states or logits, log-probabilities,
    or summed loss.
    """
    if metric == "kl":
        return full.log_softmax(-1)
    return _loss(full, targets) if metric == "loss" else full


def _distance(metric: Metric, known: Tensor, changed: Tensor, targets: Tensor) -> Tensor:
    if metric == "kl":
        return (known.exp() * (known - changed.log_softmax(-1))).sum(dtype=torch.float64)
    if metric == "loss":
        return _loss(changed, targets) - known
    return (changed - known).square_().sum(dtype=torch.float64)


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, ignore_index=-100, reduction="none").sum(
        dtype=torch.float64
    )


def _scale(metric: Metric, full: Tensor, part: slice, length: int) -> float:
    if metric == "mse":
        return full.numel()
    if metric == "logit-mse":
        return full.square().sum(dtype=torch.float64).item()
    last = part.stop // length - part.start // length  # positions with no next token
    return part.stop - part.start - (last if metric == "loss" else 0)
