"""What a search may choose from: counts of blocks, sizes of axes, level by level."""

from minipuzzle.space.bounds import Bounds, Shape, bounds, check_uniform, shape_architecture
from minipuzzle.space.levels import Level, levels
from minipuzzle.space.sizes import check_asked, fitted, left_whole, switches_left

__all__ = [
    "Bounds",
    "Level",
    "Shape",
    "bounds",
    "check_asked",
    "check_uniform",
    "fitted",
    "left_whole",
    "levels",
    "shape_architecture",
    "switches_left",
]
