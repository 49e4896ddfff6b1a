"""Room 2: how much each block, FFN channel and Mamba head matters."""

from minipuzzle.importance.baselines import magnitude_scores, random_scores
from minipuzzle.importance.blocks import removal_errors
from minipuzzle.importance.score import score, work
from minipuzzle.importance.widths import WidthScores

__all__ = [
    "WidthScores", "magnitude_scores", "random_scores", "removal_errors", "score", "work",
]  # fmt: skip
