"""Which adapter, as a recipe and the command line say it. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from minipuzzle.errors import UserError

LARGEST_RANK = 1 << 16
"""Beyond every width of a model; more than a matrix has ranks adds nothing."""


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What is trained beside frozen weights: ``kind`` lora, tl5, tl6, vera or a mask
    (``adapters.parse_mask``); "" trains all weights instead. ``alpha`` 0 is the rank; ``few``
    accepts a target under 10 % of the blocks.
    """

    kind: str = ""
    rank: int = 8
    alpha: float = 0.0
    target: str = "all"
    few: bool = False

    def __post_init__(self) -> None:
        whole = type(self.rank) is int and 1 <= self.rank <= LARGEST_RANK
        alpha = self.alpha if type(self.alpha) in (int, float) else math.nan
        if not whole or not 0 <= alpha < math.inf:  # not for nan either
            raise UserError(
                "This adapter cannot be made.",
                got=f"rank {self.rank}, alpha {self.alpha}",
                allowed=f"a rank from 1 to {LARGEST_RANK:,}, a finite alpha of at least 0",
                next="Change --rank or --alpha.",
            )
        if not isinstance(self.kind, str) or not isinstance(self.target, str):
            raise UserError(
                "This adapter cannot be made.",
                got=f"{self.kind!r} on {self.target!r}",
                allowed="the names of an adapter and of a target",
                next="tl6 on all is the one to start with.",
            )
