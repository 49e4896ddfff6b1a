"""Room 0: what a model is. Imports no torch."""

from minipuzzle.arch.architecture import Architecture, Tensor
from minipuzzle.arch.blocks import KINDS, Attention, Block, FeedForward, Mamba2, block_parameters
from minipuzzle.arch.rope import ROPE_KINDS, Rope, rope_speeds
from minipuzzle.arch.rules import Rules
from minipuzzle.arch.selection import Selection

__all__ = [
    "KINDS",
    "ROPE_KINDS",
    "Architecture",
    "Attention",
    "Block",
    "FeedForward",
    "Mamba2",
    "Rope",
    "Rules",
    "Selection",
    "Tensor",
    "block_parameters",
    "rope_speeds",
]
