"""The mixed-integer program of one choice a block, as matrices: what is chosen among, what it costs
and which choices go together.

Source: Puzzle's search (arXiv:2411.19146): max sum score x, sum_j x_ij = 1, summed costs within
their limits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint
from scipy.sparse import csr_array, vstack

OBJECTIVE = 1e4
"""Damage is scaled to this: HiGHS stops at an absolute gap of 1e-6, which must be far below any
real difference.
"""


Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Instance:
    """``damage[i]`` [k_i] and ``costs[i]`` [k_i, m] of each block's choices, ``limits`` [m] and the
    budgets' ``names``.

    ``tags[i]`` [k_i, c_i] int64 couple blocks: in each column, chosen tags of at least 0 must be
    the same in all columns of one class, ``classes[i]`` [c_i]; -1 is free. Empty tags couple
    nothing. Blocks in one tuple of ``together`` take their last choice together or not at all.
    """

    damage: tuple[Array, ...]
    costs: tuple[Array, ...]
    limits: Array
    names: tuple[str, ...]
    tags: tuple[NDArray[np.int64], ...] = ()
    classes: tuple[tuple[int, ...], ...] = ()
    together: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Program:
    """The matrices of an instance: ``objective`` [n] (damage times ``scale``, 0 for the columns of
    shared tags), ``costs`` [m, n], the constraints that hold under every limit; block i's choices
    are columns ``offsets[i]`` to ``offsets[i + 1]``.
    """

    instance: Instance
    offsets: NDArray[np.int64]
    objective: Array
    scale: float
    costs: Array  # [m, n] scaled by ``weights``
    weights: Array
    fixed: list[LinearConstraint] = field(default_factory=list)


def make_program(instance: Instance) -> Program:
    """The matrices, which many limits share: columns are all blocks' choices, then shared tags."""
    offsets = np.concatenate([[0], np.cumsum([len(d) for d in instance.damage])])
    damage = np.concatenate(instance.damage)
    scale = OBJECTIVE / max(sum(float(d.max()) for d in instance.damage), 1e-300)
    costs = np.concatenate(instance.costs).T
    weights = 1 / np.maximum(np.abs(costs).max(axis=1, initial=0.0), 1e-300)
    blocks = np.repeat(np.arange(len(instance.damage)), [len(d) for d in instance.damage])
    one = csr_array(
        (np.ones(len(damage)), (blocks, np.arange(len(damage)))),
        shape=(len(instance.damage), len(damage)),
    )
    shared = sorted(
        {
            (c, int(t))
            for classes, tags in zip(instance.classes, instance.tags, strict=True)
            for row in tags
            for c, t in zip(classes, row, strict=True)
            if t >= 0
        }
    )
    extra = np.zeros(len(shared))
    fixed = [LinearConstraint(_widen(one, len(shared)), 1, 1)]
    if shared:
        fixed += _couplings(instance, offsets, shared, len(damage))
    if instance.together:
        fixed.append(_together(instance, offsets, len(damage) + len(shared)))
    return Program(
        instance=instance,
        offsets=offsets,
        objective=np.concatenate([damage * scale, extra]),
        scale=scale,
        costs=np.concatenate(
            [costs * weights[:, None], np.zeros((len(costs), len(shared)))], axis=1
        ),
        weights=weights,
        fixed=fixed,
    )


def _couplings(
    instance: Instance, offsets: NDArray[np.int64], shared: list[tuple[int, int]], choices: int
) -> list[LinearConstraint]:
    """The x_ij of a block with one tag are together <= y of the tag, and at most one y in each
    class.
    """
    position = {key: choices + k for k, key in enumerate(shared)}
    rows, columns, values, count = [], [], [], 0
    for i, tags in enumerate(instance.tags):
        known: dict[tuple[int, int], int] = {}
        for j, row in enumerate(tags):
            named = ((c, int(t)) for c, t in zip(instance.classes[i], row, strict=True) if t >= 0)
            for key in dict.fromkeys(named):
                if key not in known:
                    known[key], count = count, count + 1
                    rows.append(known[key])
                    columns.append(position[key])
                    values.append(-1.0)
                rows.append(known[key])
                columns.append(int(offsets[i]) + j)
                values.append(1.0)
    below = csr_array((values, (rows, columns)), shape=(count, choices + len(shared)))
    kinds = sorted({c for c, _ in shared})
    one = csr_array(
        (
            np.ones(len(shared)),
            ([kinds.index(c) for c, _ in shared], [position[key] for key in shared]),
        ),
        shape=(len(kinds), choices + len(shared)),
    )
    return [
        LinearConstraint(
            vstack([below, one]), -np.inf, np.concatenate([np.zeros(count), np.ones(len(kinds))])
        )
    ]


def _together(instance: Instance, offsets: NDArray[np.int64], columns: int) -> LinearConstraint:
    """The last choices of blocks that go together are equal."""
    pairs = [(group[0], other) for group in instance.together for other in group[1:]]
    rows = np.repeat(np.arange(len(pairs)), 2)
    last = [int(offsets[i + 1]) - 1 for pair in pairs for i in pair]
    return LinearConstraint(
        csr_array(([1.0, -1.0] * len(pairs), (rows, last)), shape=(len(pairs), columns)), 0, 0
    )


def _widen(matrix: csr_array, columns: int) -> csr_array:
    return csr_array(
        (matrix.data, matrix.indices, matrix.indptr),
        shape=(matrix.shape[0], matrix.shape[1] + columns),
    )
