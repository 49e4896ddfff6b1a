"""Mean activation, L2 over the batch: FFN after the activation, Mamba before the convolution.

FFN: mean |x| of what down_proj reads. Mamba: mean |x| of LN(X) Wx^T (arXiv:2504.11409, section
3.1). Attention: s_h = sqrt(sum_b (mean_s ||X_h||_2)^2), X_h the channels of head h before o_proj
(F_head, arXiv:2407.14679).
"""

from __future__ import annotations

from torch import Tensor

from minipuzzle.importance.estimators.base import Activations
from minipuzzle.importance.readings import MeanAbsolute, Reading
from minipuzzle.shapes import Float, Float64


class HeadNorm(MeanAbsolute):
    """The L2 norm of each head's channels in place of |x|."""

    def reduce(self, x: Float[Tensor, "b s c"]) -> dict[str, Float64[Tensor, ...]]:
        heads = len(self.sums["squares"])
        return super().reduce(x.float().unflatten(-1, (heads, -1)).norm(dim=-1))


def mean_norm(weight: Tensor, count: int) -> Reading:
    """Of each channel where each has a score of its own, else of each head's channels together."""
    return MeanAbsolute(count) if weight.shape[1] == count else HeadNorm(count)


ESTIMATOR = Activations(
    source="arXiv:2407.14679, arXiv:2504.11409",
    points=("before_convolution", "channels"),
    reading=mean_norm,
)
