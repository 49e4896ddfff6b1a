"""A model that speaks: the prompt in pieces, then token after token, greedy or sampled."""

from minipuzzle.generation.sampling import GREEDY, Sampling
from minipuzzle.generation.speak import generate, stream

__all__ = ["GREEDY", "Sampling", "generate", "stream"]
