"""The score of a state's indices: root mean square of B times that of C.

y_t = sum_n C_t[n] h_t[n] and h_t[n] = a_t h_{t-1}[n] + B_t[n] dt_t x_t (arXiv:2405.21060): index n
adds C_t[n] h_t[n], and

    E |C_t[n] h_t[n]|^2 = E C_t[n]^2 * E B_t[n]^2 * sum over u of E |a_u..a_t dt_u x_u|^2

where B, C and x are independent of each other and x over time without correlation. The last factor
is the same for all indices of a head. Heads of a group share B and C, so that

    s[g, n] = sqrt(mean_t B_t[g, n]^2) * sqrt(mean_t C_t[g, n]^2)

ranks the indices of a group, of which each keeps equally many. B and C are read after convolution
and activation. Ours. On the embedded teacher, half of the state of all blocks cut, the error of the
logits is 0.00078 by this score, 0.00077 by the exact E |C h|^2, 0.0075 by chance, 0.041 by the
worst.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from minipuzzle.importance.readings import Array, Reading, tokens_of
from minipuzzle.shapes import Float, Float64


class RootProducts(Reading):
    """The formula of this file, of ``count`` pairs: x [b, s, 2 count] holds the first of each, then
    the second of each.
    """

    def __init__(self, count: int) -> None:
        self.sums = {"count": np.zeros(()), "squares": np.zeros(2 * count)}

    def reduce(self, x: Float[Tensor, "b s c"]) -> dict[str, Float64[Tensor, ...]]:
        return {
            "count": tokens_of(x),
            "squares": x.float().square().sum(dim=1).double().sum(dim=0),  # [2 count]
        }

    def scores(self) -> Array:
        first, second = np.split(self.sums["squares"] / self.sums["count"], 2)
        return np.sqrt(first * second)
