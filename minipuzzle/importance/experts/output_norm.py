"""Mean over an expert's own tokens of its output's norm, whatever the gates.

s_j = 1/|X_j| sum over t in X_j of ||f_j(t)||_2, f_j before the gate; as NVIDIA's Model Optimizer
ranks experts.
"""

from __future__ import annotations

from minipuzzle.importance.experts.base import ExpertEstimator
from minipuzzle.importance.routed import share

EXPERT_ESTIMATOR = ExpertEstimator(
    source="NVIDIA Model Optimizer", scores=lambda sums: share(sums["norms"], sums["rows"])
)
