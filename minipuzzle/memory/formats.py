"""Formats of quantised matrices, and what a matrix takes in a file, scales included. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from minipuzzle.settings.bits import WHOLE, group_of, parts


@dataclass(frozen=True, kw_only=True)
class Format:
    """Codes of ``bits``, with a scale for each ``group`` of columns in a row (0: for a whole row),
    or with ``one`` for the whole matrix and one for its inputs, which are measured beforehand.

    ``scheme`` and ``packing`` are compressed-tensors' names of what the codes mean and of how they
    are stored. ``scale_bytes`` 0: scales have the weights' dtype. ``apart`` are bytes that each
    matrix has besides: NVFP4's second scale, INT4's shape.
    """

    label: str
    scheme: str
    packing: str
    bits: int
    group: int = 0
    one: bool = False
    scale_bytes: int = 0
    apart: int = 0

    def nbytes(self, rows: int, columns: int, width: int) -> int:
        """The bytes of a matrix of weights that have ``width`` bytes each."""
        scales = 2 if self.one else rows * (columns // self.group if self.group else 1)
        return rows * columns * self.bits // 8 + scales * (self.scale_bytes or width) + self.apart

    def divides(self, columns: int) -> bool:
        """Whether so many columns are whole groups."""
        return not self.group or columns % self.group == 0


FORMATS = {
    "fp8": Format(
        label="FP8, a scale a row; activations to FP8 a token at a time",
        scheme="FP8_DYNAMIC",
        packing="float-quantized",
        bits=8,
    ),
    "fp8-static": Format(
        label="FP8, a scale a matrix and a measured one for its inputs",
        scheme="FP8",
        packing="float-quantized",
        bits=8,
        one=True,
    ),
    "nvfp4": Format(
        label="NVFP4: E2M1 codes, an FP8 scale for 16, an FP32 one a matrix",
        scheme="NVFP4A16",
        packing="nvfp4-pack-quantized",
        bits=4,
        group=16,
        scale_bytes=1,
        apart=4,
    ),
    "mxfp4": Format(
        label="MXFP4: E2M1 codes, a power of two for 32",
        scheme="MXFP4A16",
        packing="mxfp4-pack-quantized",
        bits=4,
        group=32,
        scale_bytes=1,
    ),
    "int4": Format(
        label="INT4, symmetric, a scale a group",
        scheme="W4A16",
        packing="pack-quantized",
        bits=4,
        group=128,
        apart=16,
    ),
}


Pair = tuple[Format | None, Format | None]
"""The formats of what reads the stream in a block, and of what writes into it."""


def format_of(name: str, group: int = 128) -> Format | None:
    """The format of a name, None for "bf16", which leaves matrices whole. ``group`` is that of an
    INT4 that does not name its own ("int4-64").
    """
    if name == WHOLE:
        return None
    found = FORMATS[name.partition("-")[0] if name.startswith("int4") else name]
    return replace(found, group=group_of(name) or group) if name.startswith("int4") else found


def pair_of(name: str, group: int = 128) -> Pair:
    """The formats of a block that the name says: one for all of it, or two ("fp8+nvfp4")."""
    reads, writes = parts(name)
    return format_of(reads, group), format_of(writes, group)
