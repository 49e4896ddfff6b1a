"""How much each block, FFN channel, head and hidden channel matters."""

from minipuzzle.importance.amount import work
from minipuzzle.importance.collect import Collector, HiddenCollector
from minipuzzle.importance.estimators import check_streamed, streamed
from minipuzzle.importance.estimators.magnitude import magnitude_scores
from minipuzzle.importance.estimators.random import random_scores
from minipuzzle.importance.estimators.taylor import taylor_scores
from minipuzzle.importance.stream import score

__all__ = [
    "Collector",
    "HiddenCollector",
    "check_streamed",
    "magnitude_scores",
    "random_scores",
    "score",
    "streamed",
    "taylor_scores",
    "work",
]
