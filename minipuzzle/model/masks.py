"""A selection as masks, so that a candidate costs one forward and no copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from minipuzzle.arch import Selection
from minipuzzle.kinds import Block, Mamba2
from minipuzzle.model.blocks import Masks


def block_masks(block: Block, selection: Selection, index: int, device: torch.device) -> Masks:
    """The masks of a kept block: "intermediate" [f], "q_heads" [h], "channels" [heads * head_dim]
    (Mamba), all bool.
    """
    kept = {axis: chosen for axis, chosen in selection.axes(index).items() if axis != "hidden"}
    masks = {axis: mask(block.sizes[axis], chosen, device) for axis, chosen in kept.items()}
    if isinstance(block, Mamba2) and masks:
        everything = {
            axis: torch.ones(block.sizes[axis], dtype=torch.bool, device=device)
            for axis in ("heads", "head_dim")
        }
        heads, channels = (masks.get(axis, everything[axis]) for axis in ("heads", "head_dim"))
        masks["channels"] = (heads[:, None] & channels).flatten()
    return masks


@contextmanager
def meanwhile(values: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Meanwhile each (object, attribute, value) holds; they are what they were whatever is raised,
    Ctrl-C included.
    """
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in values]
    try:
        for owner, name, value in values:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def mask(size: int, kept: tuple[int, ...], device: torch.device) -> Tensor:
    """[size] bool, true at the kept indices."""
    result = torch.zeros(size, dtype=torch.bool, device=device)
    result[torch.tensor(kept, device=device)] = True
    return result
