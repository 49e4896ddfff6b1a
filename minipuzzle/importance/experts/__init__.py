"""Estimators of experts, one file each, found by their names (``minipuzzle.registry``)."""

from __future__ import annotations

from minipuzzle.importance.experts.base import ExpertEstimator
from minipuzzle.registry import EXPERT_ESTIMATORS


def find(name: str) -> ExpertEstimator:
    """The estimator of a name. Raises: UserError for an unknown one."""
    return EXPERT_ESTIMATORS.load(name, ExpertEstimator)
