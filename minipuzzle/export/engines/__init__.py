"""Engines that run a checkpoint, one file each, found by their names (``minipuzzle.registry``)."""

from __future__ import annotations

from minipuzzle.export.engines.base import Engine
from minipuzzle.registry import ENGINES


def find(name: str) -> Engine:
    """The engine of a name. Raises: UserError for an unknown one."""
    return ENGINES.load(name, Engine)
