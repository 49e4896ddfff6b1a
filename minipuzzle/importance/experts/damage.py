"""Damage at the model's end with one expert removed, as blocks are removed (many streams).

The router chooses among the others. A stream an expert: of N blocks with E experts each, N x E x
score.block_samples samples of hidden states lie in memory at the end, and pass N/2 blocks on
average. What it takes is printed first. Sizes of the axis have no damage curve then: which experts
go is known at the end of the pass.
"""

from __future__ import annotations

from minipuzzle.importance.experts.base import ExpertEstimator

EXPERT_ESTIMATOR = ExpertEstimator(source="arXiv:2411.19146, of blocks")
