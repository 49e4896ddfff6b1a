"""What a quantised checkpoint will hold, and its bytes, from the architecture alone. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

from minipuzzle.arch import Architecture
from minipuzzle.arch import Tensor as Planned
from minipuzzle.checkpoint.pieces import piece_shapes
from minipuzzle.errors import UserError
from minipuzzle.families import Family, names_of
from minipuzzle.memory.formats import Format, Pair

WEIGHT = ".weight"


@dataclass(frozen=True)
class Piece:
    """A tensor of the file to be: of which tensor of ours, from which of its file's pieces, and in
    which format; None for what stays as it is. ``matrix``: whether a format could be chosen.
    """

    planned: Planned
    name: str
    shape: tuple[int, ...]
    format: Format | None
    matrix: bool

    @property
    def layer(self) -> str:
        """The layer whose weight it is."""
        return self.name.removesuffix(WEIGHT)

    def nbytes(self, width: int) -> int:
        """Its bytes in the file; a number that stays as it is takes ``width``."""
        if self.format is None:
            return prod(self.shape) * width
        return self.format.nbytes(self.shape[0], self.shape[1], width)


def split(family: Family, architecture: Architecture, formats: Sequence[Pair]) -> list[Piece]:
    """The tensors of the file to be, as it names them, where the matrices of block i are in
    ``formats[i]``.

    Raises: UserError where matrices that are to be quantised have no names of their own.
    """
    names, found = family.names(architecture), []
    for planned in architecture.file_tensors():
        name, block = names[planned.name][0], planned.block
        format, mine = None, False
        if block is not None and planned.weight.name in architecture.blocks[block].matrices:
            mine, writes = True, planned.weight.name in architecture.blocks[block].outputs
            format = formats[block][writes]
        for piece, shape in zip(names_of(name), piece_shapes(planned, name), strict=True):
            if format is not None and (len(shape) != 2 or WEIGHT not in piece):
                raise UserError(
                    "The experts of this family are one tensor in a file, which no engine takes"
                    " quantised.",
                    got=f"{piece} {list(shape)}",
                    allowed="a matrix an expert",
                    next="Quantise this checkpoint with the engine that will run it.",
                )
            found.append(Piece(planned, piece, shape, format, mine))
    return found


def odd_columns(pieces: Iterable[Piece]) -> list[Piece]:
    """The matrices whose columns are no whole groups of their format."""
    return [p for p in pieces if p.format is not None and not p.format.divides(p.shape[1])]


def check_groups(pieces: Iterable[Piece]) -> None:
    """Raises: UserError where the columns of a matrix are no whole groups."""
    if odd := odd_columns(pieces):
        columns = ", ".join(str(size) for size in sorted({piece.shape[1] for piece in odd}))
        format = odd[0].format
        assert format is not None
        raise UserError(
            f"Columns are no multiples of {format.group}, for which {format.packing} has a scale.",
            got=f"{columns} columns in {len(odd)} matrices, first {odd[0].name}",
            allowed=f"multiples of {format.group}",
            next="Take int4 in smaller groups (quantize.group 32, distill.student_precision"
            " int4-32), or fp8, which takes every size; search.bits keeps widths to whole groups.",
        )


def planned_bytes(pieces: Iterable[Piece], width: Callable[[str], int]) -> int:
    """The bytes of all tensors of the file to be; ``width``: bytes a number of a tensor of ours."""
    return sum(piece.nbytes(width(piece.planned.name)) for piece in pieces)
