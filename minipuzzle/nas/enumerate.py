"""Every point of the grid and what it costs, as arrays: 300,000 points take a tenth of a second."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.cost.pricing import Pricing
from minipuzzle.memory import Workload
from minipuzzle.memory.footprint import part_bytes, values
from minipuzzle.space import Bounds, Shape, shape_architecture

FIELDS = ("attention", "mlp", "mamba", "intermediate", "heads", "hidden")
HIDDEN = FIELDS.index("hidden")


@dataclass(frozen=True, kw_only=True)
class Feasible:
    """The grid points within the limits: ``shapes`` [n, 6] int64 in the order of FIELDS, and their
    costs [n], times [n, t].
    """

    shapes: NDArray[np.int64]
    parameters: NDArray[np.int64]
    bytes: NDArray[np.float64]
    times: NDArray[np.float64]

    @property
    def count(self) -> int:
        """How many fit."""
        return len(self.shapes)

    def shape(self, index: int) -> Shape:
        """One of them."""
        return Shape(
            **{name: int(value) for name, value in zip(FIELDS, self.shapes[index], strict=True)}
        )


def grid(bounds: Bounds) -> NDArray[np.int64]:
    """All points [n, 6]."""
    counts = [
        np.arange(low, high + 1) for low, high in (bounds.attention, bounds.mlp, bounds.mamba)
    ]
    sizes = [np.asarray(values) for values in (bounds.intermediate, bounds.heads, bounds.hidden)]
    axes = np.meshgrid(*counts, *sizes, indexing="ij")
    points = np.stack([axis.reshape(-1) for axis in axes], axis=1).astype(np.int64)
    return points[points[:, 1] == points[:, 0] + points[:, 2]] if bounds.paired else points


def costs(
    parent: Architecture, shapes: NDArray[np.int64], workload: Workload
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(parameters [n], memory in bytes [n]) of grid points.

    Values are those of the model without blocks plus, for each kind, count x one block's: so each
    distinct (width, heads, hidden size) is counted once, through the functions that price any
    architecture, and the bytes equal ``memory``'s exactly.
    """
    total = np.zeros((len(shapes), 4), dtype=np.int64)
    for hidden in np.unique(shapes[:, HIDDEN]):
        here = shapes[:, HIDDEN] == hidden
        total[here] = _values(parent.at_hidden(int(hidden)), shapes[here])
    return total[:, 0], part_bytes(total, workload).sum(axis=1)


def _values(parent: Architecture, shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n, 4]: ``memory.values`` of shapes that all have the parent's hidden size."""
    empty = Shape(attention=0, mlp=0, mamba=0, intermediate=1, heads=1, hidden=parent.hidden)
    base = np.asarray(values(shape_architecture(parent, empty)))
    total = np.tile(base, (len(shapes), 1))
    for column, kind in enumerate(("attention", "mlp", "mamba")):
        if parent.count(kind) == 0:
            continue
        size = {"attention": None, "mlp": "intermediate", "mamba": "heads"}[kind]
        settings = shapes[:, FIELDS.index(size)] if size else np.zeros(len(shapes), dtype=np.int64)
        for value in np.unique(settings):
            one = replace(empty, **{kind: 1, **({size: int(value)} if size else {})})
            added = np.asarray(values(shape_architecture(parent, one))) - base
            here = settings == value
            total[here] += shapes[here, column, None] * added
    return total


def times(shapes: NDArray[np.int64], prices: Pricing) -> NDArray[np.float64]:
    """[n, t] milliseconds under each time limit: count x one block's, as ``costs`` does for
    parameters.
    """
    total = np.zeros((len(shapes), len(prices.asked.times)))
    for hidden in np.unique(shapes[:, HIDDEN]) if prices.asked.times else ():
        here = shapes[:, HIDDEN] == hidden
        total[here] = _times(shapes[here], prices.at_hidden(int(hidden)))
    return total


def _times(shapes: NDArray[np.int64], prices: Pricing) -> NDArray[np.float64]:
    """As ``times``, for shapes that all have the hidden size of the prices' parent."""
    count = len(prices.asked.times)
    total = np.tile(prices.base[len(prices.base) - count :], (len(shapes), 1))
    for column, kind in enumerate(("attention", "mlp", "mamba")):
        block = next((b for b in prices.parent.blocks if b.kind == kind), None)
        if block is None:
            continue
        size = {"mlp": "intermediate", "mamba": "heads"}.get(kind)
        settings = shapes[:, FIELDS.index(size)] if size else np.zeros(len(shapes), dtype=np.int64)
        for value in np.unique(settings):
            change: Any = {size: int(value)} if size else {}
            here = settings == value
            total[here] += shapes[here, column, None] * prices.of(replace(block, **change))[-count:]
    return total


def enumerate_shapes(bounds: Bounds, prices: Pricing) -> Feasible:
    """The grid points that keep every limit, one hidden size after the other: a grid of millions is
    never whole in memory.
    """
    parts = [_feasible(replace(bounds, hidden=(hidden,)), prices) for hidden in bounds.hidden]
    return Feasible(
        shapes=np.concatenate([p.shapes for p in parts]),
        parameters=np.concatenate([p.parameters for p in parts]),
        bytes=np.concatenate([p.bytes for p in parts]),
        times=np.concatenate([p.times for p in parts]),
    )


def _feasible(bounds: Bounds, prices: Pricing) -> Feasible:
    shapes = grid(bounds)
    parameters, size = costs(prices.parent, shapes, prices.workload)
    took = times(shapes, prices)
    fits = within(parameters, size, took, prices)
    return Feasible(
        shapes=shapes[fits], parameters=parameters[fits], bytes=size[fits], times=took[fits]
    )


def within(
    parameters: NDArray[np.int64],
    size: NDArray[np.float64],
    took: NDArray[np.float64],
    prices: Pricing,
) -> NDArray[np.bool_]:
    """[n] bool: which keep every limit."""
    limits = prices.asked
    fits = np.ones(len(parameters), dtype=bool)
    if limits.parameters is not None:
        fits &= parameters <= limits.parameters
    if limits.bytes is not None:
        fits &= size <= limits.bytes
    if limits.times:
        fits &= (took <= prices.limits[-len(limits.times) :]).all(axis=1)
    return fits


def maximal(feasible: Feasible, bounds: Bounds, prices: Pricing) -> NDArray[np.bool_]:
    """[n] bool: the feasible points from which no single step up (one block or layer, one size of
    an axis) fits.
    """
    result = np.ones(feasible.count, dtype=bool)
    tops = np.array([bounds.attention[1], bounds.mlp[1], bounds.mamba[1]])
    for columns in [(0, 1), (2, 1)] if bounds.paired else [(0,), (1,), (2,)]:
        stepped = feasible.shapes.copy()
        stepped[:, columns] += 1
        possible = np.asarray((stepped[:, columns] <= tops[list(columns)]).all(axis=1))
        result &= ~_fit(stepped, possible, prices)
    for column, sizes in ((3, bounds.intermediate), (4, bounds.heads), (HIDDEN, bounds.hidden)):
        stepped, values = feasible.shapes.copy(), np.asarray(sizes)
        position = np.searchsorted(values, stepped[:, column] + 1)
        stepped[:, column] = values[np.minimum(position, len(values) - 1)]
        result &= ~_fit(stepped, position < len(values), prices)
    return result


def _fit(
    shapes: NDArray[np.int64], possible: NDArray[np.bool_], prices: Pricing
) -> NDArray[np.bool_]:
    """[n] bool: which of the ``possible`` shapes keep every limit."""
    fits = np.zeros(len(shapes), dtype=bool)
    here = shapes[possible]
    parameters, size = costs(prices.parent, here, prices.workload)
    fits[possible] = within(parameters, size, times(here, prices), prices)
    return fits
