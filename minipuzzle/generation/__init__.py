"""A model that speaks: the prompt in pieces, then token after token, greedy or sampled."""

from minipuzzle.generation.sampling import GREEDY
from minipuzzle.generation.speak import generate, stream
from minipuzzle.settings import Sampling

__all__ = ["GREEDY", "Sampling", "generate", "stream"]
