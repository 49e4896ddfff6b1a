"""A selection as masks, so that a candidate costs one forward and no copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.machine import sent
from minipuzzle.shapes import Bool


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


def index_mask(
    size: int, kept: NDArray[np.int64] | Sequence[int] | None, device: torch.device
) -> Bool[Tensor, " {size}"] | None:
    """True at the kept indices; None where all are kept."""
    if kept is None:
        return None
    result = torch.zeros(size, dtype=torch.bool)
    result[torch.as_tensor(kept, dtype=torch.int64)] = True
    return sent(result, device)
