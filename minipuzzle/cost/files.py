"""The bytes of weights as ``minipuzzle quantize`` writes them, block by block. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.cached import caching, scale_bytes
from minipuzzle.checkpoint.planned import odd_columns, planned_bytes, split
from minipuzzle.errors import UserError
from minipuzzle.families import Family
from minipuzzle.kinds import Block
from minipuzzle.memory.formats import Pair, pair_of
from minipuzzle.settings.bits import pairs

BF16, FP32 = 2, 4


@dataclass(frozen=True, kw_only=True)
class Files:
    """``names``: the formats to choose from, by their numbers on the axis, ascending. ``widths``:
    bytes a number of each tensor that is not quantised, by its name within its block. ``beside``:
    the bytes of what a file holds besides the text. What is called ``bits`` is such a number.
    """

    family: Family
    names: Mapping[int, str]
    widths: Mapping[str, int]
    beside: int = 0

    @property
    def widest(self) -> int:
        """The format of the most bits."""
        return max(self.names)

    @cached_property
    def every(self) -> dict[int, str]:
        """The formats that a block may have where it may have two, fewest bits first."""
        return pairs(self.names)

    def bytes(self, architecture: Architecture, bits: int | Sequence[int], kv: str) -> int:
        """All tensors of the file of an architecture whose blocks have these ``bits``; where keys
        and values are to be cached in ``kv`` "fp8" with their scales.
        """
        each = [bits] * len(architecture.blocks) if isinstance(bits, int) else bits
        pieces = split(self.family, architecture, [self._formats(n) for n in each])

        def width(name: str) -> int:
            return self.widths[_within(name)]

        scales = scale_bytes(caching(pieces, architecture), width) if kv == "fp8" else 0
        return self.beside + planned_bytes(pieces, width) + scales

    def divides(self, parent: Architecture, block: Block, bits: int) -> bool:
        """Whether the columns of a block's matrices are whole groups at so many bits."""
        alone = replace(parent, blocks=(block,))
        return not odd_columns(split(self.family, alone, [self._formats(bits)]))

    def offered(self, parent: Architecture, block: Block) -> tuple[int, ...]:
        """The bits that a block, whole, can have in all its matrices, ascending."""
        return tuple(bits for bits in self.names if self.divides(parent, block, bits))

    def options(self, parent: Architecture, block: Block) -> tuple[int, ...]:
        """The bits that a block, whole, can have, the fewest first: two formats too where it has no
        stack of experts, for which engines have one scheme.
        """
        every = self.names if block.stacks else self.every
        return tuple(bits for bits in every if self.divides(parent, block, bits))

    def check(self, parent: Architecture) -> list[str]:
        """Sentences on formats that fit no whole block. Raises: UserError for a block that none
        fits, and as ``split``.
        """
        lost: list[int] = []
        for block in dict.fromkeys(parent.blocks):
            fitting = self.offered(parent, block)
            lost += [bits for bits in self.names if bits not in fitting]
            if not fitting:
                columns = sorted({columns for _, columns in block.projections.values()})
                raise UserError(
                    f"The columns of {block.kind} blocks are whole groups of no format.",
                    got=f"search.bits {','.join(self.names.values())}; columns"
                    f" {', '.join(map(str, columns))}",
                    allowed="groups of 16 (nvfp4), 32 (mxfp4, int4-32), 64 (int4-64), 128 (int4);"
                    " fp8 and bf16 take every size",
                    next="Name another format in search.bits, or add fp8.",
                )
        return [
            f"{self.names[bits]} is not tried where columns are no whole groups"
            for bits in sorted(set(lost))
        ]

    def _formats(self, bits: int) -> Pair:
        return pair_of(self.every[bits])


def files_of(checkpoint: Checkpoint, names: Mapping[int, str]) -> Files | None:
    """Those of what is cut from a checkpoint; None where there is no format to choose."""
    widths = _largest(
        (t.name, checkpoint.held_dtype(t.name).itemsize)
        for t in checkpoint.architecture.file_tensors()
    )
    beside = checkpoint.copied_bytes
    family = checkpoint.family
    return Files(family=family, names=names, widths=widths, beside=beside) if names else None


def planned_files(
    family: Family, architecture: Architecture, names: Mapping[int, str]
) -> Files | None:
    """Those of a config.json alone, whose weights will be BF16; None as in ``files_of``."""
    buffers = architecture.buffers
    widths = _largest(
        (t.name, FP32 if t.name in buffers else BF16) for t in architecture.file_tensors()
    )
    return Files(family=family, names=names, widths=widths) if names else None


def _largest(widths: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, width in widths:
        found[_within(name)] = max(width, found.get(_within(name), 0))
    return found


def _within(name: str) -> str:
    """The name of a tensor without the number of its block."""
    return name.split(".", 2)[2] if name.startswith("blocks.") else name
