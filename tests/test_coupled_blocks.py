"""Blocks that stay or go together, and blocks that share a size, in what the solver finds: by brute
force.
"""

from dataclasses import replace

import numpy as np
import pytest
from family_models import FORMS
from search_problems import problem

from minipuzzle import families
from minipuzzle.nas.choices import combinations
from minipuzzle.nas.program import Instance
from minipuzzle.nas.propose import propose
from minipuzzle.nas.solve import solve


def test_blocks_of_a_layer_go_together_in_the_solver():
    """Three blocks, two of which are one layer; by brute force over what is legal."""
    damage = (np.array([0.0, 1.0]), np.array([0.0, 5.0]), np.array([0.0, 2.5]))
    costs = tuple(np.array([[4.0], [0.0]]) for _ in range(3))
    free = Instance(damage=damage, costs=costs, limits=np.array([8.0]), names=("a",))
    assert solve(free).choices == (1, 0, 0)
    assert solve(replace(free, together=((0, 1),))).choices == (0, 0, 1)
    assert solve(replace(free, together=((0, 2),))).choices == (1, 0, 1)
    assert solve(replace(free, together=((0, 2, 1),), limits=np.array([11.0]))).choices == (1, 1, 1)


def test_a_familys_layers_reach_the_solver():
    parent = families.find("llama").architecture(
        {**next(iter(FORMS["llama"].values())), "num_hidden_layers": 3}
    )
    parent, scores, space, options, prices = problem(parent=parent, share=0.7)
    for state in propose(parent, scores, space, options, prices, 4).states:
        assert all((state[i] is None) == (state[i + 1] is None) for i in range(0, 6, 2))


@pytest.mark.parametrize("pattern", ["MM", "MMM", "MM-"])
def test_blocks_that_share_a_size_share_it_in_what_the_solver_finds(pattern):
    """Head scores that would have one block narrow and the other whole; by brute force over coupled
    states.
    """
    for seed in range(4):
        parent, scores, space, options, prices = problem(pattern, share=0.75, seed=seed)
        scores = replace(scores, blocks=np.array([9.0, 0.1, 4.0])[: len(pattern)])
        proposals = propose(parent, scores, space, options, prices, 1)
        choices, state = proposals.choices, proposals.states[0]
        assert (
            len(
                {
                    rung
                    for rung, block in zip(state, parent.blocks, strict=True)
                    if block.kind == "mamba"
                }
                - {None}
            )
            <= 1
        )
        assert choices.predicted(state) == pytest.approx(
            min(choices.predicted(s) for s in combinations(choices) if choices.fits(s))
        )
