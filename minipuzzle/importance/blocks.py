"""Block scores: what happens just before the head when one block is taken out.

score(j) = MSE(h_full, h_without_j), h after the final norm, over calibration samples: Puzzle's replace-one-block score
(arXiv:2411.19146) with the block replaced by nothing, as MiniPuzzle ranks layers (arXiv:2504.03624). Blocks before j
are those of the whole model, so they run once: N blocks cost N(N+1)/2 block-forwards a batch instead of N^2.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.model import HybridLM


@torch.no_grad()
def removal_errors(model: HybridLM, tokens: Tensor) -> NDArray[np.float64]:
    """[n_blocks] float64: for each block the mean squared error that its removal causes, over tokens [b, s]."""
    count = len(model.blocks)
    prefix = [model.embed(tokens)]
    for i in range(count):
        prefix.append(model.run_blocks(prefix[-1], None, i, i + 1))
    full = model.final_norm(prefix[-1]).float()
    errors = np.zeros(count)
    for removed in range(count):
        state = model.run_blocks(prefix[removed], None, removed + 1, count)
        errors[removed] = (model.final_norm(state).float() - full).square().mean(dtype=torch.float64).item()
    return errors
