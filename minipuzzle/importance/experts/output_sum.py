"""Sum over an expert's own tokens of its output's norm: frequency times mean (EAN).

s_j = sum over t in X_j of ||f_j(t)||_2, f_j before the gate: the "expert activation norm" that
arXiv:2510.13999 compares with.
"""

from __future__ import annotations

from minipuzzle.importance.experts.base import ExpertEstimator

EXPERT_ESTIMATOR = ExpertEstimator(source="arXiv:2510.13999", scores=lambda sums: sums["norms"])
