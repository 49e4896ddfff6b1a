"""Room 2: how much each block, FFN channel and Mamba head matters."""

from minipuzzle.importance.baselines import magnitude_scores, random_scores
from minipuzzle.importance.blocks import removal_errors
from minipuzzle.importance.estimators import ESTIMATORS, FORWARD, Collector, HiddenCollector, check_streamable
from minipuzzle.importance.score import score, work
from minipuzzle.importance.taylor import taylor_scores
from minipuzzle.importance.widths import WidthScores

__all__ = [
    "ESTIMATORS", "FORWARD", "Collector", "HiddenCollector", "WidthScores", "check_streamable", "magnitude_scores",
    "random_scores", "removal_errors", "score", "taylor_scores", "work",
]  # fmt: skip
