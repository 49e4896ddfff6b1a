"""Parents with made-up scores, which the search chooses from."""

import itertools

import numpy as np
from conftest import shape_of, space_of

from minipuzzle.kinds import FeedForward, Mamba2
from minipuzzle.scores import Scores

SPACE = space_of(
    attention=(0, 1),
    mlp=(1, 3),
    mamba=(1, 3),
    intermediate=(24, 64),
    heads=(4, 6, 8),
    hidden=(16, 24, 32),
)


def scored(parent, seed=0, ties=False):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.integers(0, 3, shape).astype(float) if ties else rng.random(shape)

    return Scores(
        blocks=draw(len(parent.blocks)),
        hidden=draw(parent.hidden),
        meta={},
        widths={
            "intermediate": {
                i: draw(b.intermediate)
                for i, b in enumerate(parent.blocks)
                if isinstance(b, FeedForward)
            },
            "head_channels": {
                i: draw(b.heads, b.head_dim)
                for i, b in enumerate(parent.blocks)
                if isinstance(b, Mamba2)
            },
        },
    )


def every_shape(space):
    counts = [range(low, high + 1) for low, high in space.counts.values()]
    return {
        shape_of(attention=a, mlp=f, mamba=m, intermediate=w, heads=h, hidden=d)
        for a, f, m, w, h, d in itertools.product(*counts, *space.sizes.values(), space.hidden)
    }
