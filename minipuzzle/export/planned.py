"""What a quantised checkpoint will hold, and its bytes, from the architecture alone. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from minipuzzle.arch import Architecture
from minipuzzle.arch import Tensor as Planned
from minipuzzle.checkpoint.pieces import piece_shapes
from minipuzzle.errors import UserError
from minipuzzle.families import Family, names_of
from minipuzzle.memory.formats import Format

WEIGHT = ".weight"


@dataclass(frozen=True)
class Piece:
    """A tensor of the file to be: of which tensor of ours, from which of its file's pieces."""

    planned: Planned
    name: str
    shape: tuple[int, ...]

    @property
    def layer(self) -> str:
        """The layer whose weight it is."""
        return self.name.removesuffix(WEIGHT)


def split(family: Family, architecture: Architecture) -> tuple[list[Piece], list[Piece]]:
    """(matrices that are quantised, everything else), as the written file names them.

    Raises: UserError where experts have no names of their own.
    """
    names = family.names(architecture)
    wanted: list[Piece] = []
    others: list[Piece] = []
    for planned in architecture.file_tensors():
        name = names[planned.name][0]
        block = None if planned.block is None else architecture.blocks[planned.block]
        mine = block is not None and planned.weight.name in block.matrices
        for piece, shape in zip(names_of(name), piece_shapes(planned, name), strict=True):
            (wanted if mine else others).append(Piece(planned, piece, shape))
    stacked = [piece for piece in wanted if len(piece.shape) != 2 or WEIGHT not in piece.name]
    if stacked:
        raise UserError(
            "The experts of this family are one tensor in a file, which no engine takes quantised.",
            got=f"{stacked[0].name} {list(stacked[0].shape)}",
            allowed="a matrix an expert",
            next="Quantise this checkpoint with the engine that will run it.",
        )
    return wanted, others


def check_groups(matrices: list[Piece], format: Format) -> None:
    """Raises: UserError where the columns of a matrix are no whole groups."""
    odd = [piece for piece in matrices if not format.divides(piece.shape[1])]
    if odd:
        columns = ", ".join(str(size) for size in sorted({piece.shape[1] for piece in odd}))
        raise UserError(
            f"Columns are no multiples of {format.group}, for which {format.packing} has a scale.",
            got=f"{columns} columns in {len(odd)} matrices, first {odd[0].name}",
            allowed=f"multiples of {format.group}",
            next="Take int4 in smaller groups (quantize.group 32, distill.student_precision"
            " int4-32), or fp8, which takes every size; a search that rounds widths to multiples"
            " keeps them whole.",
        )


def planned_bytes(
    matrices: list[Piece], others: list[Piece], format: Format, width: Callable[[str], int]
) -> int:
    """The bytes of all tensors of the file to be; ``width``: bytes a number of a tensor of ours."""
    whole = sum(prod(piece.shape) * width(piece.planned.name) for piece in others)
    coded = 0
    for piece in matrices:
        rows, columns = piece.shape
        coded += format.nbytes(rows, columns, width(piece.planned.name))
    return whole + coded
