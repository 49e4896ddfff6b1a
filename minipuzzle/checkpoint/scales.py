"""Scales of FP8 weights: where they lie, and the weights that codes and scales mean.

weight = code x scale, in every format that is read, whatever the tensor's name says
(``weight_scale_inv`` too). Sources: compressed-tensors 0.20 (quantization/lifecycle/forward.py),
transformers 5.23 (integrations/finegrained_fp8.py), ModelOpt 0.47.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from minipuzzle.checkpoint.header import Entry
from minipuzzle.checkpoint.quantised import Fp8
from minipuzzle.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = ("_scale_inv", "_scale")
DTYPES = ("F32", "BF16", "F16")


@dataclass(frozen=True)
class Scale:
    """The tensor ``name`` of a file with the scales of codes of ``shape``: ``step`` codes along
    each dimension share one.
    """

    name: str
    entry: Entry
    shape: tuple[int, ...]
    step: tuple[int, ...]

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """How many scales there are along each dimension."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.step, strict=True))

    def of_lines(self, values: Tensor, first: int, count: int) -> Tensor:
        """The scale of each code [count, columns or 1] in ``count`` lines (rows of the last
        dimension, through all others) from ``first`` on; ``values``: all scales, FP32.
        """
        import torch

        *outer, columns = self.shape
        line = torch.arange(first, first + count)
        places = torch.unravel_index(line, outer)
        row = torch.zeros_like(line)
        for place, step, size in zip(places, self.step, self.grid, strict=False):
            row = row * size + place // step  # [count], into the grid's rows
        lines = values.view(-1, self.grid[-1])[row]  # [count, scales of a line]
        if self.grid[-1] == 1:
            return lines
        return lines.repeat_interleave(self.step[-1], 1)[:, :columns]  # [count, columns]


def scale_name(weight: str, entries: Mapping[str, Entry]) -> str | None:
    """The tensor that holds the scales of ``weight``; None where there is none."""
    return next((weight + end for end in SUFFIXES if weight + end in entries), None)


def scale_of(weight: str, entries: Mapping[str, Entry], fp8: Fp8) -> Scale:
    """The scales of a tensor of codes. Raises: UserError where they are missing, or of another
    shape or dtype than ``fp8`` says.
    """
    name, shape = scale_name(weight, entries), entries[weight].shape
    if name is None:
        raise UserError(
            f"The FP8 codes of {weight} have no scales.",
            got=fp8,
            allowed=" or ".join(weight + end for end in reversed(SUFFIXES)),
            next="Copy or download the files again.",
        )
    entry = entries[name]
    steps = _steps(shape, fp8.block)
    step = next((s for s in steps if _shape(entry.shape) == _shape(_grid(shape, s))), None)
    if step is None or entry.dtype not in DTYPES:
        raise UserError(
            f"Tensor {name} has not the shape or dtype of scales of {weight}.",
            got=f"{list(entry.shape)} in {entry.dtype}",
            allowed=", ".join(str(list(_grid(shape, s))) for s in steps)
            + f" in {', '.join(DTYPES)}",
            next="Save a dequantised checkpoint with the tool that made this one.",
        )
    return Scale(name, entry, shape, step)


def _steps(shape: tuple[int, ...], block: tuple[int, int] | None) -> list[tuple[int, ...]]:
    """One scale for all; for each matrix of a stack; for each block, or else for each row."""
    if len(shape) < 2:
        return [shape]
    stacked, last = (1,) * (len(shape) - 2), shape[-2:]
    inner = (1, last[-1]) if block is None else block
    return [shape, (*stacked, *last), (*stacked, *inner)]


def _grid(shape: tuple[int, ...], step: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // by) for size, by in zip(shape, step, strict=True))


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without sizes of 1 at the end: [rows] is [rows, 1], [] is [1]."""
    kept = len(shape)
    while kept and shape[kept - 1] == 1:
        kept -= 1
    return shape[:kept]
