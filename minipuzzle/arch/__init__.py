"""Room 0: what a model is. Imports no torch."""

from minipuzzle.arch.architecture import Architecture, Tensor
from minipuzzle.arch.blocks import KINDS, Attention, Block, FeedForward, Mamba2, block_parameters
from minipuzzle.arch.selection import Selection

__all__ = [
    "KINDS", "Architecture", "Attention", "Block", "FeedForward", "Mamba2", "Selection", "Tensor", "block_parameters",
]  # fmt: skip
