"""Scores to compare with: random, and the size of the weights (what "magnitude" pruning means)."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minipuzzle.arch import Architecture
from minipuzzle.artifacts import Scores
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2
from minipuzzle.model import HybridLM

Array = NDArray[np.float64]


def block_noise(block: Block, rng: np.random.Generator) -> Array:
    """Uniform in [0, 1) for each FFN channel [f], Mamba channel [heads * head_dim] or query head
    [q].
    """
    return rng.random(prod(block.widths[0].score_shape(block)))


def block_magnitudes(block: Block, module: nn.Module) -> Array:
    """L2 norms of the weight rows that make each FFN channel, each channel of Mamba's x, each query
    head.
    """
    parts: Any = module
    if isinstance(block, FeedForward):
        matrices = [
            getattr(parts, name).weight.view(-1, block.intermediate, block.hidden)
            for name in block.inputs
        ]
        return _norms(torch.cat(matrices).transpose(0, 1).flatten(1))
    if isinstance(block, Mamba2):
        return _norms(parts.in_proj.weight[block.inner : 2 * block.inner])
    assert isinstance(block, Attention)
    return _norms(parts.q_proj.weight.view(block.q_heads, -1))


def random_scores(parent: Architecture, seed: int) -> Scores:
    """Scores without information: uniform in [0, 1), by seed."""
    rng = np.random.default_rng(seed)
    blocks = rng.random(len(parent.blocks))
    widths = [block_noise(block, rng) for block in parent.blocks]
    return _scores(
        parent, blocks, widths, rng.random(parent.hidden), {"estimator": "random", "seed": seed}
    )


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
        block_magnitudes(block, module)
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
    return _scores(parent, np.asarray(blocks), widths, np.sqrt(hidden), {"estimator": "magnitude"})


def _scores(
    parent: Architecture, blocks: Array, widths: list[Array], hidden: Array, meta: dict[str, Any]
) -> Scores:
    named = list(enumerate(zip(parent.blocks, widths, strict=True)))
    return Scores(
        blocks=blocks,
        hidden=hidden,
        meta=meta,
        intermediate={i: w for i, (b, w) in named if isinstance(b, FeedForward)},
        head_channels={
            i: w.reshape(b.heads, b.head_dim) for i, (b, w) in named if isinstance(b, Mamba2)
        },
        q_heads={i: w for i, (b, w) in named if isinstance(b, Attention)},
    )


def _norms(rows: Tensor) -> Array:
    return torch.linalg.vector_norm(rows.detach(), dim=1, dtype=torch.float64).cpu().numpy()
