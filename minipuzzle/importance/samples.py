"""The samples of the calibration text that one process of a scoring computes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from minipuzzle.data import TokenBlocks
from minipuzzle.ranks import Ranks
from minipuzzle.settings import ScoreSettings
from minipuzzle.shapes import Int


class Samples:
    """``tokens`` [samples, s] of this process: samples rank, rank + world, ... of those that the
    seed chooses. The first ``watched`` score widths, the first ``shared`` go through variants;
    ``counted`` [samples, s] says which positions are compared, None: all. ``for_widths``,
    ``for_blocks``, ``most`` and ``most_shared`` count samples: the first two of all processes, the
    others of the process that has most.
    """

    def __init__(self, blocks: TokenBlocks, settings: ScoreSettings, group: Ranks) -> None:
        self.for_widths = min(settings.samples, len(blocks))
        self.for_blocks = min(settings.block_samples, len(blocks))
        count = max(self.for_widths, self.for_blocks)
        chosen = blocks.take(count, seed=settings.seed)
        mine = slice(group.rank, None, group.world)
        self.tokens = chosen.tokens[mine]
        self.counted = torch.from_numpy(chosen.predicting[mine]) if blocks.spans else None
        self.watched, self.shared = group.share(self.for_widths), group.share(self.for_blocks)
        self.most, self.most_shared = (-(-n // group.world) for n in (count, self.for_blocks))

    def text(self, part: slice) -> Int[Tensor, "n s"]:
        """The tokens of some of them, int64."""
        return torch.from_numpy(self.tokens[part].astype(np.int64))
