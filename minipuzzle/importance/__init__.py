"""Room 2: how much each block, FFN channel, head and hidden channel matters."""

from minipuzzle.importance.baselines import magnitude_scores, random_scores
from minipuzzle.importance.estimators import (
    ESTIMATORS,
    FORWARD,
    Collector,
    HiddenCollector,
    check_streamable,
)
from minipuzzle.importance.stream import score, work
from minipuzzle.importance.taylor import taylor_scores

__all__ = [
    "ESTIMATORS",
    "FORWARD",
    "Collector",
    "HiddenCollector",
    "check_streamable",
    "magnitude_scores",
    "random_scores",
    "score",
    "taylor_scores",
    "work",
]
