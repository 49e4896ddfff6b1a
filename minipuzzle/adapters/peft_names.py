"""The modules of transformers that a projection of ours is: one, one whose rows come in another
order, or several, each with some of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch

from minipuzzle.adapters.saved import Lora
from minipuzzle.arch import Tensor
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.pieces import interleaved_rows, piece_shapes
from minipuzzle.families import Name, names_of

Way = dict[str, list[int]]
"""The names of the modules, and our row of each of theirs."""


def ways(base: Checkpoint) -> dict[str, tuple[Way, ...]]:
    """Canonical module -> how transformers may have it, of every projection."""
    named = base.family.names(base.architecture)
    found: dict[str, tuple[Way, ...]] = {}
    for tensor in base.architecture.tensors():
        if tensor.block is None or tensor.stacked:
            continue
        module = tensor.name.removesuffix(".weight")
        block = base.architecture.blocks[tensor.block]
        if tensor.weight.name.removesuffix(".weight") in block.projections:
            found[module] = tuple(_way(tensor, name) for name in named[tensor.name])
    return found


def usual(base: Checkpoint) -> dict[str, Way]:
    """The way of each projection that is exported; ``model.`` is the root of today's
    transformers.
    """
    return {
        module: next((way for way in found if all(n.startswith("model.") for n in way)), found[0])
        for module, found in ways(base).items()
    }


def joined(loras: Sequence[tuple[Lora, list[int]]], rows: int) -> Lora:
    """One LoRA of a projection of so many ``rows`` from those of its parts, with our row of each of
    theirs: a after a, b beside b, where no part lies 0.
    """
    first, rank = loras[0][0], sum(lora.rank for lora, _ in loras)
    if len(loras) == 1 and loras[0][1] == list(range(rows)):
        return first
    b, start = first.b.new_zeros(rows, rank), 0
    for lora, own in loras:
        # the first part keeps its numbers, whatever it is divided by
        scale = (lora.alpha / lora.rank) / (first.alpha / first.rank)
        b[torch.tensor(own), start : start + lora.rank] = lora.b * scale
        start += lora.rank
    return Lora(
        module=first.module,
        weight=first.weight,
        rank=rank,
        alpha=first.alpha / first.rank * rank,
        a=torch.cat([lora.a for lora, _ in loras]),
        b=b,
    )


def _way(tensor: Tensor, name: Name) -> Way:
    names = [part.removesuffix(".weight") for part in names_of(name)]
    if not isinstance(name, str) and name.interleaved:
        place = [row for rows in interleaved_rows(tensor) for row in rows]
        return {names[0]: sorted(range(len(place)), key=place.__getitem__)}
    ends = accumulate((shape[0] for shape in piece_shapes(tensor, name)), initial=0)
    return {part: list(range(*ends_)) for part, ends_ in zip(names, pairwise(ends), strict=True)}
