"""Kinds of blocks, one file each, found by their files. Imports no torch."""

from importlib import import_module
from pkgutil import iter_modules

from minipuzzle.kinds.attention import Attention
from minipuzzle.kinds.axes import Kept, Weight, weight
from minipuzzle.kinds.base import KINDS, Block
from minipuzzle.kinds.cost import Cache, Flops
from minipuzzle.kinds.delta_net import DeltaNet
from minipuzzle.kinds.experts import Experts
from minipuzzle.kinds.feedforward import FeedForward
from minipuzzle.kinds.mamba2 import Mamba2
from minipuzzle.kinds.rope import ROPE_KINDS, Rope, rope_speeds
from minipuzzle.kinds.short_conv import ShortConv
from minipuzzle.kinds.width import Width

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "KINDS",
    "ROPE_KINDS",
    "Attention",
    "Block",
    "Cache",
    "DeltaNet",
    "Experts",
    "FeedForward",
    "Flops",
    "Kept",
    "Mamba2",
    "Rope",
    "ShortConv",
    "Weight",
    "Width",
    "rope_speeds",
    "weight",
]
