"""Losses besides divergences, one file each, found by their names (``minipuzzle.registry``)."""

from __future__ import annotations

from minipuzzle.registry import LOSSES
from minipuzzle.training.losses.base import Loss


def find(name: str) -> Loss:
    """The loss of a name. Raises: UserError for an unknown one."""
    return LOSSES.load(name, Loss)
