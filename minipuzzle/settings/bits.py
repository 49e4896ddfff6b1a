"""Formats that a search chooses from for each block, as people write them: "4..8", "nvfp4,fp8". No
torch.

A block has one format, or two: "fp8+nvfp4" has FP8 in what reads the stream and NVFP4 in the
matrices that write into it (``Block.outputs``). Of a byte these are worth another number of nats,
and layers that engines join to one product are on one side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from minipuzzle.errors import UserError

WHOLE = "bf16"
"""Matrices as they are in the checkpoint, whatever its dtype."""
BITS = {"nvfp4": 4, "mxfp4": 4, "int4": 4, "int4-64": 4, "int4-32": 4, "fp8": 8, WHOLE: 16}
"""The formats and their bits, the one that a number of bits means the first of these."""
AXIS = "bits"
"""What the search calls the format of a block beside the axes of its sizes."""
TENTHS = {"int4": 41, "int4-64": 42, "mxfp4": 43, "int4-32": 44, "nvfp4": 45, "fp8": 80, WHOLE: 160}
"""The sizes on that axis: tenths of the bits that a weight takes, scales included, each its own."""
NAMES = {tenths: name for name, tenths in TENTHS.items()}
READS, WRITES, BOTH = 1, 2, 3
"""The part of a block whose matrices scores measure in a format: the sizes of its curve."""
JOIN, BESIDE = "+", 1000
"""Between the two formats of a block, in their name and in their number."""


def parts(name: str) -> tuple[str, str]:
    """The formats of what reads the stream in a block, and of what writes into it."""
    reads, _, writes = name.partition(JOIN)
    return reads, writes or reads


def is_format(name: str) -> bool:
    """Whether a block can have it: one format, or two."""
    return all(part in BITS for part in parts(name)) and name.count(JOIN) < 2


def number(name: str) -> int:
    """The place of a block's format on the axis."""
    reads, writes = (TENTHS[part] for part in parts(name))
    return reads if reads == writes else BESIDE * reads + writes


def tenths(number: int) -> tuple[int, int]:
    """The tenths of bits of both parts of a block whose format has that number."""
    reads, writes = divmod(number, BESIDE)
    return (reads, writes) if reads else (writes, writes)


def name_of(number: int) -> str:
    """The format of a number."""
    return JOIN.join(dict.fromkeys(NAMES[n] for n in tenths(number)))


def mean_tenths(number: int) -> float:
    """Of both parts of a block, in the order in which a search goes through formats."""
    return sum(tenths(number)) / 2


def pairs(names: Mapping[int, str]) -> dict[int, str]:
    """Number -> format of blocks that may have any two of ``names``, fewest bits first."""
    every = [number(a + JOIN + b) for a in names.values() for b in names.values()]
    return {n: name_of(n) for n in sorted(every, key=mean_tenths)}


def parse_bits(text: str) -> Mapping[int, str]:
    """Number -> format, ascending: of "4..8" a format of 4 bits and one of 8, of a list those
    named, by bits or name. An empty text means none.

    Raises: UserError for what is no format.
    """
    if not text.strip():
        return {}
    of_bits: dict[int, str] = {}
    for name, bits in BITS.items():
        of_bits.setdefault(bits, name)
    span = re.fullmatch(r"(\d{1,2})\.\.(\d{1,2})", text.replace(" ", ""))
    if span is not None:
        low, high = int(span[1]), int(span[2])
        if low not in of_bits or high not in of_bits or low > high:
            raise _refused(text, "is no range of bits", "4..8, 4..16 or 8..16")
        return {TENTHS[name]: name for bits, name in of_bits.items() if low <= bits <= high}
    found: dict[int, str] = {}
    for part in text.lower().replace(" ", "").split(","):
        name = of_bits.get(int(part), part) if part.isdecimal() and len(part) < 3 else part
        if name not in BITS:
            raise _refused(
                text,
                f"names {part!r}, which is no format of a block",
                f"4, 8 and 16 bits, or {', '.join(BITS)}",
            )
        found[TENTHS[name]] = name
    return dict(sorted(found.items()))


def group_of(name: str) -> int:
    """The columns of a group that an INT4's name says; 0 where it says none."""
    return int(name.removeprefix("int4-")) if name.startswith("int4-") else 0


def _refused(text: str, what: str, allowed: str) -> UserError:
    return UserError(
        f"{text!r} {what}.",
        got=text[:80],
        allowed=allowed,
        next="Write for example 4..8, or nvfp4,fp8,bf16.",
    )
