"""Room 2: how much each block, FFN channel, head and hidden channel matters."""

from minipuzzle.importance.baselines import magnitude_scores, random_scores
from minipuzzle.importance.stream import score, work

__all__ = ["magnitude_scores", "random_scores", "score", "work"]
