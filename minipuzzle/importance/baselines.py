"""Scores to compare with: random, and the size of the weights (what "magnitude" pruning means)."""

from __future__ import annotations

import numpy as np

from minipuzzle.arch import Architecture, FeedForward, Mamba2
from minipuzzle.artifacts import Scores
from minipuzzle.model import HybridLM


def random_scores(parent: Architecture, seed: int) -> Scores:
    """Scores without information: uniform in [0, 1), by seed."""
    rng = np.random.default_rng(seed)
    return Scores(
        blocks=rng.random(len(parent.blocks)),
        intermediate={i: rng.random(b.intermediate) for i, b in enumerate(parent.blocks) if isinstance(b, FeedForward)},
        head_channels={
            i: rng.random((b.heads, b.head_dim)) for i, b in enumerate(parent.blocks) if isinstance(b, Mamba2)
        },
        meta={"estimator": "random", "seed": seed},
    )


def magnitude_scores(model: HybridLM) -> Scores:
    """L2 norms of weight rows (channels) and root mean squares of a block's matrices (blocks)."""
    blocks, intermediate, head_channels = [], {}, {}
    for i, block in enumerate(model.architecture.blocks):
        parameters = dict(model.blocks[i].named_parameters())
        matrices = [p.detach().float() for p in parameters.values() if p.ndim == 2]
        total = sum(m.square().sum().item() for m in matrices)
        blocks.append((total / sum(m.numel() for m in matrices)) ** 0.5)
        if isinstance(block, FeedForward):
            intermediate[i] = parameters["up_proj.weight"].detach().double().norm(dim=1).cpu().numpy()
        if isinstance(block, Mamba2):
            rows = parameters["in_proj.weight"].detach()[block.inner : 2 * block.inner].double().norm(dim=1)
            head_channels[i] = rows.cpu().numpy().reshape(block.heads, block.head_dim)
    return Scores(
        blocks=np.asarray(blocks), intermediate=intermediate, head_channels=head_channels,
        meta={"estimator": "magnitude"},
    )  # fmt: skip
