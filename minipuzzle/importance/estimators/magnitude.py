"""Norms of the weight rows that make each channel or head: a baseline without data.

Rows of up_proj (and gate_proj), of x in in_proj, of q_proj, as each kind declares
(``Read.makers``). Indices that no weight makes, such as a router's choices, all have 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from minipuzzle.importance.estimators.base import Weights
from minipuzzle.importance.readings import Array
from minipuzzle.importance.widths import as_scores, score_count
from minipuzzle.kinds import Block
from minipuzzle.model import HybridLM
from minipuzzle.scores import Scores


def magnitude_scores(model: HybridLM) -> Scores:
    """L2 norms of weight rows (channels, heads), of all matrices' rows and columns at a hidden
    channel, and root mean squares of a block's matrices (blocks).
    """
    parent = model.architecture
    blocks = []
    for module in model.blocks:
        matrices = [p.detach().float() for p in module.parameters() if p.ndim == 2]
        total = sum(m.square().sum().item() for m in matrices)
        blocks.append((total / sum(m.numel() for m in matrices)) ** 0.5)
    widths = [
        {name: block_magnitudes(block, module, name) for name in block.score_shapes}
        for block, module in zip(parent.blocks, model.blocks, strict=True)
    ]
    parameters = dict(model.named_parameters())
    hidden = np.zeros(parent.hidden)
    for tensor in parent.tensors():
        if len(tensor.shape) == 2:
            other = [axis for axis, dim in enumerate(tensor.weight.dims) if dim != (("hidden",),)]
            hidden += (
                parameters[tensor.name].detach().float().square().sum(other).double().cpu().numpy()
            )
    return as_scores(
        parent,
        blocks=np.asarray(blocks),
        widths=widths,
        hidden=np.sqrt(hidden),
        meta={"estimator": "magnitude"},
    )


def block_magnitudes(block: Block, module: Any, name: str, seed: int = 0) -> Array:
    """[number of scores] L2 norms over all weights that make an index."""
    count, makers = score_count(block, name), block.reads[name].makers
    if not makers:
        return np.ones(count)
    rows = [
        module.get_parameter(made.projection)[:, block.rows(made)]
        if made.projection in block.stacks
        else module.get_parameter(f"{made.projection}.weight")[block.rows(made)]
        for made in makers
    ]
    each = torch.cat([part.reshape(count, -1) for part in rows], 1)  # [scores, weights of one]
    return torch.linalg.vector_norm(each.detach(), dim=1, dtype=torch.float64).cpu().numpy()


ESTIMATOR = Weights(source="magnitude pruning, as usually understood", scores=block_magnitudes)
