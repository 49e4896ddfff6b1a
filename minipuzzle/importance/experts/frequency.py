"""Share of the tokens that choose the expert.

f_j = |X_j| / T: the baseline of arXiv:2510.13999.
"""

from __future__ import annotations

from minipuzzle.importance.experts.base import ExpertEstimator
from minipuzzle.importance.routed import share

EXPERT_ESTIMATOR = ExpertEstimator(
    source="arXiv:2510.13999", scores=lambda sums: share(sums["rows"], sums["tokens"])
)
