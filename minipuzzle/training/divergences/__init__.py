"""Divergences between teacher and student, one file each, found by their names
(``minipuzzle.registry``).
"""

from __future__ import annotations

from minipuzzle.registry import DIVERGENCES
from minipuzzle.training.divergences.base import Divergence


def find(name: str) -> Divergence:
    """The divergence of a name. Raises: UserError for an unknown one."""
    return DIVERGENCES.load(name, Divergence)
