"""Which token comes next: the likeliest, or one drawn from a tempered distribution without its
tail.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minipuzzle.settings import Sampling

GREEDY = Sampling()
COLDEST = 1e-30
"""A temperature below is the same as this one: none but the likeliest token is drawn, and 1e-50 is
0 in float32.
"""


class Picker:
    """Picks a token a row. Its random numbers are drawn on the CPU, so that a seed means the same
    on every device.

    Where the rows are those from the ``first`` on of a batch of ``of``, whose others are continued
    elsewhere, each gets the random numbers that it has in the whole batch.
    """

    def __init__(self, sampling: Sampling, first: int = 0, of: int = 0) -> None:
        self.sampling, self.first, self.of = sampling, first, of
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def __call__(self, logits: Tensor) -> Tensor:
        """[b] int64 from logits [b, vocab] float32."""
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        temperature = max(self.sampling.temperature, COLDEST)
        p, order = (
            ((logits - logits.amax(-1, keepdim=True)) / temperature)
            .softmax(-1)
            .sort(-1, descending=True)
        )
        before = p.cumsum(-1) - p
        p = p.where(before < self.sampling.top_p, 0)  # the first is kept whatever its share
        drawn = torch.rand(self.of or len(p), 1, generator=self._generator)
        at = drawn[self.first : self.first + len(p)].to(p.device) * p.sum(-1, keepdim=True)
        place = (p.cumsum(-1) <= at).sum(-1, keepdim=True)
        last = (p > 0).sum(-1, keepdim=True) - 1  # rounding may put ``at`` behind the sum
        return order.gather(-1, place.minimum(last))[:, 0]
