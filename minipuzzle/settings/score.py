"""What scores see and measure. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from minipuzzle.identity import Plain, changed
from minipuzzle.registry import ESTIMATORS, METRICS
from minipuzzle.settings.bounds import BATCHES, SEEDS, within


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What scores see and measure: the papers use 1024 samples for widths and 128 for blocks
    (arXiv:2504.03624).

    ``estimator``, one of ``registry.ESTIMATORS``, scores channels and heads; ``metric``, one of
    ``METRICS``, measures what removing or narrowing a block does to the model's end. ``curves``
    also narrows each block; ``iterative`` removes that many blocks one after the other, scoring
    again after each (0: all scores from the whole model).
    """

    samples: int = 1024
    block_samples: int = 128
    batch: int = 8
    estimator: str = "mixed"
    metric: str = "mse"
    curves: bool = True
    iterative: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        within(
            self,
            samples=(1, 10**9),
            block_samples=(1, 10**9),
            batch=BATCHES,
            iterative=(0, 10**6),
            seed=SEEDS,
        )
        ESTIMATORS.check(self.estimator)
        METRICS.check(self.metric)

    def identity(self) -> dict[str, Plain]:
        """What finished scores are compared by."""
        return changed(self)
