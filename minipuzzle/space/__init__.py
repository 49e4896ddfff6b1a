"""What a search may choose from: counts of blocks, sizes of axes, level by level."""

from minipuzzle.space.level import Level, levels
from minipuzzle.space.ranges import (
    Bounds,
    Shape,
    bounds,
    check_uniform,
    left_out,
    shape_architecture,
)
from minipuzzle.space.sizes import (
    axis_sizes,
    check_asked,
    first_blocks,
    fitted,
    switches_left,
    thinned,
    tried,
)

__all__ = [
    "Bounds",
    "Level",
    "Shape",
    "axis_sizes",
    "bounds",
    "check_asked",
    "check_uniform",
    "first_blocks",
    "fitted",
    "left_out",
    "levels",
    "shape_architecture",
    "switches_left",
    "thinned",
    "tried",
]
