"""Which experts a token goes to and with which weights, as transformers' routers compute it:
models/nemotron_h (sigmoid), qwen3_moe and olmoe (softmax), granitemoehybrid and gpt_oss (softmax
over the chosen logits).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minipuzzle.kernels.pointwise import compiled, compiles
from minipuzzle.shapes import Bool, Float, Int

Router = Literal["sigmoid", "softmax", "chosen_softmax"]
NO_ZERO = 1e-20
"""Added to a sum of sigmoids before it divides; nemotron_h's number."""


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The rule. ``groups`` > 1 (sigmoid only): experts e * groups // E are a group, and a token
    chooses among the ``groups_kept`` groups whose two best experts have the largest sum.

    ``normalised``: chosen weights sum to ``scaling``; chosen_softmax's always do.
    """

    router: Router
    top_k: int
    normalised: bool
    scaling: float = 1.0
    groups: int = 1
    groups_kept: int = 1


def route(
    logits: Float[Tensor, "n e"],
    routing: Routing,
    correction: Float[Tensor, " e"] | None = None,
    kept: Bool[Tensor, " e"] | None = None,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """(weights, chosen experts) [n, top_k] of each token. Chosen experts are int64; weights are
    FP32, or the dtype of ``logits`` under the softmax routers.

    ``correction`` (sigmoid only) is added for the choice, not to the weights. Experts that are not
    ``kept`` are as if their rows were not there.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    if routing.router == "sigmoid":
        return _sigmoid(wide, routing, correction, kept)
    if kept is not None:
        wide = wide.masked_fill(~kept, -torch.inf)
    if routing.router == "softmax":
        weights, chosen = wide.softmax(-1).topk(routing.top_k, -1)
        if routing.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
    else:
        best, chosen = wide.topk(routing.top_k, -1)
        weights = best.softmax(-1)
    return (weights * routing.scaling).to(logits.dtype), chosen


def _sigmoid(
    logits: Tensor, routing: Routing, correction: Tensor | None, kept: Tensor | None
) -> tuple[Tensor, Tensor]:
    scores = logits.sigmoid()
    choice = scores if correction is None else scores + correction  # [n, E]
    if kept is not None:
        choice = choice.masked_fill(~kept, -torch.inf)
    if routing.groups > 1:
        grouped = choice.unflatten(-1, (routing.groups, -1))  # [n, groups, E / groups]
        best = grouped.topk(2, -1)[0].sum(-1).topk(routing.groups_kept, -1, sorted=False)[1]
        stays = torch.zeros(grouped.shape[:2], dtype=torch.bool, device=logits.device)
        stays = stays.scatter(1, best, True)  # [n, groups]
        choice = grouped.masked_fill(~stays[..., None], -torch.inf).flatten(1)
    chosen = choice.topk(routing.top_k, -1, sorted=False)[1]
    weigh = compiled(_weights) if compiles(scores) else _weights
    return weigh(scores, chosen, routing.normalised, routing.scaling), chosen


def _weights(scores: Tensor, chosen: Tensor, normalised: bool, scaling: float) -> Tensor:
    """Of the chosen experts [n, k]; one kernel on CUDA, and one backward."""
    weights = scores.gather(1, chosen)
    if normalised:
        weights = weights / (weights.sum(-1, keepdim=True) + NO_ZERO)
    return weights * scaling
