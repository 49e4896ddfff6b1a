"""Metrics of what a changed block does, one file each, found by their names
(``minipuzzle.registry``).
"""

from __future__ import annotations

from minipuzzle.importance.metrics.base import Metric
from minipuzzle.registry import METRICS


def find(name: str) -> Metric:
    """The metric of a name. Raises: UserError for an unknown one."""
    return METRICS.load(name, Metric)
