"""What a model is: an architecture of blocks, and what is kept of it. Imports no torch."""

from minipuzzle.arch.architecture import Architecture, Tensor
from minipuzzle.arch.rules import Multiple, Rules
from minipuzzle.arch.selection import Selection

__all__ = ["Architecture", "Multiple", "Rules", "Selection", "Tensor"]
