"""Axes: each weight says once what its rows and columns mean; counts, slices and masks derive from
it.

A dimension is a sum of segments, a segment a product of axes in row-major order. Mamba-2's packed
input projection is ``"heads*head_dim + heads*head_dim + groups*state + groups*state + heads"`` (z,
x, B, C, dt): keeping some heads keeps their rows in z, in x and in dt, and all of B and C, without
any further word about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

Segment = tuple[str, ...]
Dim = tuple[Segment, ...]
Kept = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Weight:
    """A named tensor and the meaning of each of its dimensions."""

    name: str
    dims: tuple[Dim, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The tensor's shape under the given axis sizes."""
        return tuple(sum(prod(sizes[a] for a in segment) for segment in dim) for dim in self.dims)

    def numel(self, sizes: Mapping[str, int]) -> int:
        """The number of elements under the given axis sizes."""
        return prod(self.shape(sizes))

    def notation(self, dim: int) -> str:
        """A dimension as ``weight`` takes it: "heads*head_dim + groups*state"."""
        return " + ".join("*".join(segment) for segment in self.dims[dim])

    def axes(self) -> set[str]:
        """Every axis that this tensor has."""
        return {axis for dim in self.dims for segment in dim for axis in segment}

    def indices(self, sizes: Mapping[str, int], kept: Kept) -> list[NDArray[np.int64] | None]:
        """For each dimension the positions to keep (int64, ascending by segment), or None where all
        stay.
        """
        return [_dim_indices(dim, sizes, kept) for dim in self.dims]


@dataclass(frozen=True)
class Rows:
    """The rows of a projection that one segment of its output names."""

    projection: str
    segment: int = 0


def weight(name: str, *dims: str) -> Weight:
    """A Weight from the notation of this module: ``weight("up", "intermediate", "hidden")``."""
    return Weight(
        name, tuple(tuple(tuple(s.strip().split("*")) for s in dim.split("+")) for dim in dims)
    )


def _dim_indices(dim: Dim, sizes: Mapping[str, int], kept: Kept) -> NDArray[np.int64] | None:
    if not any(axis in kept for segment in dim for axis in segment):
        return None
    parts, offset = [], 0
    for segment in dim:
        position = np.zeros(1, dtype=np.int64)
        for axis in segment:
            chosen = np.asarray(
                kept[axis] if axis in kept else np.arange(sizes[axis]), dtype=np.int64
            )
            position = (position[:, None] * sizes[axis] + chosen).reshape(-1)
        parts.append(position + offset)
        offset += prod(sizes[a] for a in segment)
    return np.concatenate(parts)
