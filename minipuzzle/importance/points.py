"""Where an activation of a block is read: at the branch's input, at the channels that the output
projection reads, or at rows of a projection that the kind names.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minipuzzle.kinds import Block
from minipuzzle.kinds.width import Width

Read = Callable[[Tensor], None]


def width_of(block: Block) -> Width | None:
    """The width whose scores rank what a block keeps; None for a kind that never gets narrower.

    Raises: NotImplementedError for a kind whose widths are ranked by several arrays.
    """
    if len({width.score for width in block.widths}) > 1:
        raise NotImplementedError(f"several scores of the kind {block.kind!r}: one is collected")
    return block.widths[0] if block.widths else None


def score_count(block: Block) -> int:
    """How many scores a block has; 0 for a kind that never gets narrower."""
    width = width_of(block)
    return 0 if width is None else prod(width.score_shape(block))


def output_projection(block: Block, module: nn.Module) -> nn.Linear:
    """The linear module that writes into the stream."""
    result: nn.Linear = getattr(module, block.output)
    return result


def watch(block: Block, module: Any, point: str, read: Read) -> RemovableHandle:
    """Call ``read`` with each activation [b, s, c] that passes a point of a block's module.

    Raises: NotImplementedError for a point that the kind does not have.
    """
    handle: RemovableHandle
    if point == "branch_input":
        handle = module.norm.register_forward_hook(lambda m, i, output: read(output))
    elif point == "channels":
        output = output_projection(block, module)
        handle = output.register_forward_pre_hook(lambda m, inputs: read(inputs[0]))
    elif point in block.points:
        rows = block.points[point]
        projection, part = getattr(module, rows.projection), block.rows(rows)
        handle = projection.register_forward_hook(lambda m, i, output: read(output[..., part]))
    else:
        raise NotImplementedError(f"the kind {block.kind!r} has no point {point!r}")
    return handle
