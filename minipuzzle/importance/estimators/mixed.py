"""For each kind of block the estimator that kept most on two teachers (the default).

A kind names it in its file: ``flap`` for FFN channels, ``contribution`` for Mamba and attention,
measured before and after distillation (docs/results/importance.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from minipuzzle.importance.estimators import find
from minipuzzle.importance.estimators.base import Estimator
from minipuzzle.importance.readings import Reading
from minipuzzle.kinds import Block
from minipuzzle.model.base import ResidualBlock


@dataclass(frozen=True, kw_only=True)
class Mixed(Estimator):
    """Takes the estimator that the block's kind names."""

    def begin(
        self, block: Block, module: ResidualBlock, name: str, seed: int
    ) -> tuple[str, Reading]:
        """What that estimator begins with."""
        return find(block.estimator).begin(block, module, name, seed)


ESTIMATOR = Mixed(source="docs/results/importance.md")
