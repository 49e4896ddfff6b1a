"""Formats that a search chooses from for each block, as people write them: "4..8", "nvfp4,fp8". No
torch.
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
"""What the search calls the bits of a block beside the axes of its sizes."""


def parse_bits(text: str) -> Mapping[int, str]:
    """Bits -> format, ascending: of "4..8" all formats from 4 to 8 bits, of a list those named, by
    number or name. An empty text means none.

    Raises: UserError for what is no format, and for two formats of equally many bits.
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
        return {bits: name for bits, name in of_bits.items() if low <= bits <= high}
    found: dict[int, str] = {}
    for part in text.lower().replace(" ", "").split(","):
        name = of_bits.get(int(part), part) if part.isdecimal() and len(part) < 3 else part
        if name not in BITS:
            raise _refused(
                text,
                f"names {part!r}, which is no format of a block",
                f"4, 8 and 16 bits, or {', '.join(BITS)}",
            )
        if found.setdefault(BITS[name], name) != name:
            raise _refused(
                text, f"names two formats of {BITS[name]} bits", "one format of each number of bits"
            )
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
