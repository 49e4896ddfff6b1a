"""Columns that the blocks of K- and IQ-formats do not divide: what llama.cpp makes of such tensors,
and what a search would have to keep to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import gcd, lcm, prod

from minipuzzle.arch import Architecture
from minipuzzle.export.gguf_tensor import GgufTensor

BLOCK, SMALL_BLOCK = 256, 32
"""Columns that share scales in these formats, and in iq4_nl and q8_0."""


def sentences(
    architecture: Architecture,
    tensors: Sequence[GgufTensor],
    kinds: Mapping[str, tuple[str, int]],
    format: str,
) -> list[str]:
    """On the tensors that cannot be in blocks of the format: what each is instead, and which
    settings of a search keep it to whole blocks; ``kinds`` are (type, columns) by name.
    """
    block = SMALL_BLOCK if format == "iq4_nl" else BLOCK
    odd = {
        name: (kind, columns)
        for name, (kind, columns) in kinds.items()
        if columns % block and kind != "F32"
    }
    if not odd:
        return []
    sources = {tensor.name: tensor.source for tensor in tensors}
    cuts = [_cut(architecture, sources[name], block) for name in odd]
    found = [_taken(odd, block)]
    if wanted := ", ".join(dict.fromkeys(cut for cut in cuts if cut)):
        found.append(f"whole blocks of {block} by a search with {wanted}")
    if block == BLOCK and not all(cuts):
        found.append(
            f"no cut brings {cuts.count('')} of these {len(odd)} tensors to blocks of {BLOCK}:"
            f" iq4_nl and q8_0 have blocks of {SMALL_BLOCK}"
        )
    return found


def _taken(odd: Mapping[str, tuple[str, int]], block: int) -> str:
    layers: dict[str, dict[tuple[str, int], list[str]]] = {}
    for name, (kind, columns) in odd.items():
        match = re.fullmatch(r"blk\.(\d+)\.(.*)\.weight", name)
        number, tail = match.groups() if match else ("", name.removesuffix(".weight"))
        layers.setdefault(kind, {}).setdefault((tail, columns), []).append(number)
    each = (
        f"{kind} for "
        + ", ".join(
            f"{tail} ({columns}" + (f", layers {', '.join(found)})" if found[0] else ")")
            for (tail, columns), found in tensors.items()
        )
        for kind, tensors in layers.items()
    )
    return f"{block} does not divide these columns: {'; '.join(each)}"


def _cut(architecture: Architecture, source: str, block: int) -> str:
    """The setting of a search by which a tensor's columns are whole blocks; "" where no smaller
    size of this model makes them so.
    """
    if not source.startswith("blocks."):
        return _varied("hidden", architecture.hidden, block)
    _, index, name = source.split(".", 2)
    mine = architecture.blocks[int(index)]
    columns = next(weight for weight in mine.weights if weight.name == name).dims[-1]
    axes = columns[0] if len(columns) == 1 else ()
    if axes == ("hidden",):
        return _varied("hidden", architecture.hidden, block)
    for width in mine.searched:
        if width.axis in axes:
            size = mine.sizes[width.axis]
            others = prod(mine.sizes[axis] for axis in axes) // size
            step = lcm(width.step(mine), block // gcd(block, others))
            if width.candidates == "rounded" and size >= step:
                return f"search.multiple {step} ({width.label})"
            return _varied(width.axis, size, step)
    return ""


def _varied(axis: str, size: int, step: int) -> str:
    return f"search.vary {axis} in multiples of {step}" if size >= step else ""
