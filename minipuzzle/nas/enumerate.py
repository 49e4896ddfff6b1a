"""Every point of the grid and what it costs, as arrays: 300,000 points take a tenth of a second."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.cost.files import Files
from minipuzzle.cost.pricing import Pricing
from minipuzzle.errors import UserError
from minipuzzle.kinds import Block
from minipuzzle.memory import Workload
from minipuzzle.memory.footprint import part_bytes, values
from minipuzzle.nas.grid import Grid, Ints, Mask, grid
from minipuzzle.space import Bounds, Shape

Floats = NDArray[np.float64]
MOST = 16_000_000
"""Points that are held at once: some 2 GB."""


class Costs(NamedTuple):
    """Of grid points, [n] each: parameters, those that one token is computed with, memory."""

    parameters: Ints
    active: Ints
    bytes: Floats


@dataclass(frozen=True, kw_only=True)
class Feasible:
    """The points of the grid within the limits, and their costs [n], times [n, t]."""

    grid: Grid
    parameters: Ints
    active: Ints
    bytes: Floats
    times: Floats

    @property
    def count(self) -> int:
        """How many fit."""
        return len(self.grid)

    def shape(self, index: int) -> Shape:
        """One of them."""
        return self.grid.shape(index)


def costs(
    parent: Architecture, points: Grid, workload: Workload, files: Files | None = None
) -> Costs:
    """What grid points cost.

    Values are those of the model without blocks plus, for each kind, count x one block's: so each
    distinct form of a block is counted once, through the functions that price any architecture, and
    the bytes equal ``memory``'s exactly; those of weights in ``files`` are the file's.
    """
    total = np.zeros((len(points), 6), dtype=np.int64)
    for hidden, of_size in points.by_hidden():
        at = parent.at_hidden(hidden)
        for bits, of_bits in points.by_bits():
            here = of_size & of_bits
            total[here] = _values(at, points.where(here), workload, files, bits)
    sizes = part_bytes(total[:, :4], workload)
    if files is not None:
        sizes[:, 0] = total[:, 5]
    return Costs(parameters=total[:, 0], active=total[:, 4], bytes=sizes.sum(axis=1))


def _values(
    parent: Architecture, points: Grid, workload: Workload, files: Files | None, bits: int | None
) -> Ints:
    """[n, 6]: ``memory.values``, the active parameters and the bytes in ``files`` of points that
    all have the parent's hidden size and as many ``bits``.
    """

    def of(blocks: tuple[Block, ...]) -> Ints:
        made, written = replace(parent, blocks=blocks), 0
        if files is not None:
            written = files.bytes(made, files.widest if bits is None else bits, workload.kv)
        return np.array([*values(made, workload.context), made.active_parameters, written])

    base = of(())
    total = np.tile(base, (len(points), 1))
    for kind in points.kinds:
        forms, which = points.forms(parent, kind)
        added = [of((block,)) - base for block in forms]
        total += points.column(kind)[:, None] * np.reshape(added, (-1, 6))[which]
    return total


def times(points: Grid, prices: Pricing) -> Floats:
    """[n, t] milliseconds under each time limit: count x one block's, as ``costs`` does for
    parameters.
    """
    total = np.zeros((len(points), len(prices.requested.times)))
    for hidden, here in points.by_hidden() if prices.requested.times else ():
        total[here] = _times(points.where(here), prices.at_hidden(hidden))
    return total


def _times(points: Grid, prices: Pricing) -> Floats:
    """As ``times``, for points that all have the hidden size of the prices' parent."""
    count = len(prices.requested.times)
    total = np.tile(prices.base[len(prices.base) - count :], (len(points), 1))
    for kind in points.kinds:
        forms, which = points.forms(prices.parent, kind)
        added = [prices.of(block)[-count:] for block in forms]
        total += points.column(kind)[:, None] * np.reshape(added, (-1, count))[which]
    return total


def enumerate_shapes(bounds: Bounds, prices: Pricing) -> Feasible:
    """The grid points that keep every limit, one hidden size after the other: a grid of millions is
    never whole in memory.

    Raises: UserError for more than MOST points at one hidden size, or as many that fit.
    """
    if bounds.points > MOST * len(bounds.hidden):
        raise _too_many(bounds, "")
    parts = []
    for hidden in bounds.hidden:
        parts.append(_feasible(grid(replace(bounds, hidden=(hidden,))), prices))
        if sum(part.count for part in parts) > MOST:
            raise _too_many(bounds, " that fit")
    return Feasible(
        grid=replace(parts[0].grid, points=np.concatenate([p.grid.points for p in parts])),
        parameters=np.concatenate([p.parameters for p in parts]),
        active=np.concatenate([p.active for p in parts]),
        bytes=np.concatenate([p.bytes for p in parts]),
        times=np.concatenate([p.times for p in parts]),
    )


def _too_many(bounds: Bounds, which: str) -> UserError:
    counts = {kind: high - low + 1 for kind, (low, high) in bounds.counts.items()}
    axes = {axis: len(sizes) for axis, sizes in (*bounds.sizes.items(), ("hidden", bounds.hidden))}
    varied = ", ".join(f"{n:,} of {name}" for name, n in (counts | axes).items() if n > 1)
    return UserError(
        "The space of candidates is too large for a grid.",
        got=f"{bounds.points:,} points: {varied}",
        allowed=f"at most {MOST:,}{which or ' at each hidden size'}",
        next=(
            "Name fewer sizes with search.vary (experts=96,112,128), or raise search.min_keep"
            " (others=100% keeps all blocks)."
        ),
    )


def _feasible(points: Grid, prices: Pricing) -> Feasible:
    points = points.where(_allowed(points, prices))
    cost = costs(prices.parent, points, prices.workload, prices.files)
    took = times(points, prices)
    fits = within(cost, took, prices)
    return Feasible(
        grid=points.where(fits),
        parameters=cost.parameters[fits],
        active=cost.active[fits],
        bytes=cost.bytes[fits],
        times=took[fits],
    )


def _allowed(points: Grid, prices: Pricing) -> Mask:
    """[n] bool: the points whose blocks have sizes that the family's files can say, and columns
    that their format's groups divide. Sizes that no file can say are not offered, but two axes of
    one block may do together what neither does alone.
    """
    parent, allowed = prices.parent, np.ones(len(points), dtype=bool)
    for kind in points.kinds:
        forms, which = points.forms(parent, kind)
        allowed &= np.array([parent.rules.allows(block) for block in forms], dtype=bool)[which]
    files = prices.files
    if files is None:
        return allowed
    offered = [set(files.offered(parent, block)) for block in dict.fromkeys(parent.blocks)]
    for hidden, of_size in points.by_hidden():
        for bits, of_bits in points.by_bits():
            if bits is None or bits not in set.intersection(*offered):
                allowed &= ~of_bits
                continue
            here = np.flatnonzero(allowed & of_size & of_bits)
            some = points.where(here)
            for kind in points.kinds:
                forms, which = some.forms(parent.at_hidden(hidden), kind)
                whole = [files.divides(parent, form, bits) for form in forms]
                allowed[here] &= np.array(whole, dtype=bool)[which]
    return allowed


def within(cost: Costs, took: Floats, prices: Pricing) -> Mask:
    """[n] bool: which keep every limit."""
    limits = prices.requested
    fits = np.ones(len(cost.parameters), dtype=bool)
    for limit, costs in zip((limits.parameters, limits.active, limits.bytes), cost, strict=True):
        if limit is not None:
            fits &= costs <= limit
    if limits.times:
        fits &= (took <= prices.limits[-len(limits.times) :]).all(axis=1)
    return fits


def maximal(feasible: Feasible, bounds: Bounds, prices: Pricing) -> Mask:
    """[n] bool: the feasible points from which no single step up (one block or layer, one size of
    an axis) fits.
    """
    points = feasible.grid
    result = np.ones(feasible.count, dtype=bool)
    for kinds in bounds.layers or [(kind,) for kind in points.kinds]:
        stepped = points.changed(**{kind: points.column(kind) + 1 for kind in kinds})
        possible = np.ones(len(points), dtype=bool)
        for kind in kinds:
            possible &= stepped.column(kind) <= bounds.counts[kind][1]
        result &= ~_fit(stepped, possible, prices)
    for axis, sizes in (*bounds.sizes.items(), ("hidden", bounds.hidden)):
        values = np.asarray(sizes)
        position = np.searchsorted(values, points.column(axis) + 1)
        larger = values[np.minimum(position, len(values) - 1)]
        stepped = points.changed(**{axis: larger})
        result &= ~_fit(stepped, position < len(values), prices)
    return result


def _fit(points: Grid, possible: Mask, prices: Pricing) -> Mask:
    """[n] bool: which of the ``possible`` points keep every limit."""
    places = np.flatnonzero(possible & _allowed(points, prices))
    here = points.where(places)
    cost = costs(prices.parent, here, prices.workload, prices.files)
    fits = np.zeros(len(points), dtype=bool)
    fits[places] = within(cost, times(here, prices), prices)
    return fits
