"""Axes: each weight says once what its rows and columns mean; counts, slices and masks derive from
it.

A dimension is a sum of segments, a segment a product of axes in row-major order. Mamba-2's packed
input projection is ``"heads*head_dim + heads*head_dim + groups*state + groups*state + heads"`` (z,
x, B, C, dt): keeping some heads keeps their rows in z, in x and in dt, and all of B and C, without
any further word about it.

What is kept is named by an axis, or by two where each index of the first keeps indices of its own
of the second: under "experts*expert_width" are positions in experts x expert_width, equally many of
each kept expert. Both may lie in one segment or, as here, in two dimensions of a stack of matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
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
        stay. Of a dimension of which each kept index of the first keeps its own: [first, kept].
        """
        found = [_dim_indices(dim, sizes, kept) for dim in self.dims]
        for number, dim in enumerate(self.dims[1:], start=1):
            own = _own_indices(self.dims[0], dim, sizes, kept)
            found[number] = found[number] if own is None else own
        return found


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
    if not any(name in kept for segment in dim for name in (*segment, *_pairs(segment))):
        return None
    parts, offset = [], 0
    for segment in dim:
        position = np.zeros(1, dtype=np.int64)
        left = list(segment)
        while left:
            pair = next(iter(_pairs(tuple(left[:2]))), "")
            axes = left[:2] if pair in kept else left[:1]
            name = pair if pair in kept else left[0]
            whole = prod(sizes[axis] for axis in axes)
            chosen = np.asarray(kept[name] if name in kept else np.arange(whole), dtype=np.int64)
            position = (position[:, None] * whole + chosen).reshape(-1)
            left = left[len(axes) :]
        parts.append(position + offset)
        offset += prod(sizes[a] for a in segment)
    return np.concatenate(parts)


def _pairs(segment: Segment) -> list[str]:
    """The names of what each index of an axis keeps of the next one of a segment."""
    return [f"{a}*{b}" for a, b in pairwise(segment)]


def _own_indices(
    first: Dim, dim: Dim, sizes: Mapping[str, int], kept: Kept
) -> NDArray[np.int64] | None:
    """[kept of the first dimension, kept of this] where each index of the first keeps its own."""
    if len(first) > 1 or len(first[0]) > 1:
        return None
    (parent,) = first[0]
    keys = [f"{parent}*{segment[0]}" for segment in dim]
    if not any(key in kept for key in keys):
        return None
    rows = np.asarray(kept.get(parent, range(sizes[parent])), dtype=np.int64)
    parts, offset = [], 0
    for key, segment in zip(keys, dim, strict=True):
        whole = prod(sizes[a] for a in segment)
        if key in kept and len(segment) == 1:
            own = np.asarray(kept[key], dtype=np.int64).reshape(len(rows), -1)
            own = own - rows[:, None] * whole  # positions of an index's own
        else:
            own = np.broadcast_to(np.arange(whole), (len(rows), whole))
        parts.append(own + offset)
        offset += whole
    return np.concatenate(parts, axis=1)
