"""One choice a block, least summed damage under every budget: a mixed-integer program, solved by
HiGHS (scipy).

Source: Puzzle's search (arXiv:2411.19146): max sum score x, sum_j x_ij = 1, summed costs within
their limits, and its diversity cut sum x_ij y_ij <= alpha L between solutions.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from minipuzzle.errors import UserError

OBJECTIVE = 1e4
"""Damage is scaled to this: HiGHS stops at an absolute gap of 1e-6, which must be far below any
real difference.
"""
ATTEMPTS = 12
SECONDS, CHOICES_A_SECOND, LONGEST = 4.0, 600, 60.0
Array = NDArray[np.float64]


class Infeasible(UserError):
    """No choice meets the limits."""


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
class Solution:
    """One choice a block. ``bound`` is a proven lower bound of the damage, ``gap`` (damage - bound)
    / damage.
    """

    choices: tuple[int, ...]
    damage: float
    costs: Array
    bound: float
    gap: float
    seconds: float

    @property
    def optimal(self) -> bool:
        """Whether it is proven that nothing is better."""
        return self.gap <= 1e-9


@dataclass(frozen=True, kw_only=True)
class _Program:
    instance: Instance
    offsets: NDArray[np.int64]
    objective: Array
    scale: float
    costs: Array  # [m, n] scaled by ``weights``
    weights: Array
    fixed: list[LinearConstraint] = field(default_factory=list)


def solve(instance: Instance, *, seconds: float | None = None, gap: float = 0.0) -> Solution:
    """The choices with the least summed damage within the limits, proven to ``gap`` or the best
    found in ``seconds``.

    By default a second for every CHOICES_A_SECOND choices, at least SECONDS: the best is found
    early, and what is left of the proof is in the solution's gap.

    Raises: UserError where no choice meets the limits: names those that bind and the smallest
    reachable.
    """
    found = _solve(_program(instance), instance.limits, [], seconds or _patience(instance), gap)
    if found is None:
        raise _infeasible(instance)
    return found


def diverse(
    instance: Instance,
    count: int,
    *,
    overlap: float = 1.0,
    seconds: float | None = None,
    gap: float = 0.0,
) -> list[Solution]:
    """Up to ``count`` solutions, best first, any two alike in at most ``overlap`` of the blocks and
    not the same.

    With ``overlap`` 1 these are the ``count`` best. Raises: UserError where there is none at all.
    """
    program = _program(instance)
    most = min(ceil(overlap * len(instance.damage) - 1e-9), len(instance.damage) - 1)
    found: list[Solution] = []
    cuts: list[LinearConstraint] = []
    while len(found) < count:
        next_ = _solve(program, instance.limits, cuts, seconds or _patience(instance), gap)
        if next_ is None:
            break
        found.append(next_)
        row = np.zeros(len(program.objective))
        row[program.offsets[:-1] + np.array(next_.choices)] = 1
        cuts.append(LinearConstraint(csr_array(row[None]), -np.inf, most))
    if not found:
        raise _infeasible(instance)
    return found


def sweep(
    instance: Instance, limits: Iterable[Array], *, seconds: float = 60.0, gap: float = 1e-4
) -> list[Solution]:
    """A solution for each of many limits [m]: the predicted Pareto front, from one set of matrices.

    Raises: UserError for limits that nothing meets.
    """
    program = _program(instance)
    found = []
    for limit in limits:
        solution = _solve(program, np.asarray(limit, dtype=np.float64), [], seconds, gap)
        if solution is None:
            raise _infeasible(replace(instance, limits=np.asarray(limit, dtype=np.float64)))
        found.append(solution)
    return found


def _patience(instance: Instance) -> float:
    return max(SECONDS, sum(len(damage) for damage in instance.damage) / CHOICES_A_SECOND)


def _program(instance: Instance) -> _Program:
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
    return _Program(
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
    """x_ij <= y of its tag, and at most one y in each class."""
    position = {key: choices + k for k, key in enumerate(shared)}
    rows, columns, values, count = [], [], [], 0
    for i, tags in enumerate(instance.tags):
        for j, row in enumerate(tags):
            for coupling, tag in zip(instance.classes[i], row, strict=True):
                if tag >= 0:
                    rows += [count, count]
                    columns += [int(offsets[i]) + j, position[coupling, int(tag)]]
                    values += [1.0, -1.0]
                    count += 1
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
    pairs = [(unit[0], other) for unit in instance.together for other in unit[1:]]
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


def _solve(
    program: _Program, limits: Array, cuts: Sequence[LinearConstraint], seconds: float, gap: float
) -> Solution | None:
    """A solution, or None where there is none. The limits hold exactly: HiGHS' own tolerance is
    tightened away.

    The bound is that of the first, untightened program, so what tightening may cost shows in the
    gap.
    """
    started = time.monotonic()
    instance, tightened, bound = program.instance, limits * program.weights, -np.inf
    for attempt in range(ATTEMPTS):
        budgets = LinearConstraint(csr_array(program.costs), -np.inf, tightened)
        with _quiet():
            result = milp(
                program.objective,
                integrality=1,
                bounds=Bounds(0, 1),
                constraints=[*program.fixed, budgets, *cuts],
                options={
                    "time_limit": max(1.0, seconds - (time.monotonic() - started)),
                    "mip_rel_gap": gap,
                },
            )
        if result.x is None:
            if (
                result.status == 1 and seconds < LONGEST
            ):  # a busy machine, or a hard one: better late than never
                return _solve(program, limits, cuts, LONGEST, gap)
            if result.status == 1:
                raise UserError(
                    "The solver found nothing in its time.",
                    got=f"{seconds:.0f} s",
                    allowed="more time",
                    next="Search with fewer widths (a larger search.multiple) or a looser budget.",
                )
            return None
        if attempt == 0:
            bound = float(result.mip_dual_bound) / program.scale
        offsets = program.offsets
        chosen = tuple(
            int(np.argmax(result.x[offsets[i] : offsets[i + 1]]))
            for i in range(len(instance.damage))
        )
        costs = np.sum([c[j] for c, j in zip(instance.costs, chosen, strict=True)], axis=0)
        if (costs <= limits).all():
            damage = float(sum(d[j] for d, j in zip(instance.damage, chosen, strict=True)))
            bound = min(bound, damage)
            return Solution(
                choices=chosen,
                damage=damage,
                costs=costs,
                bound=bound,
                gap=(
                    (damage - bound) / max(damage, 1e-300)
                    if damage - bound > 1e-9 / program.scale
                    else 0.0
                ),
                seconds=time.monotonic() - started,
            )
        over = (costs - limits) * program.weights
        tightened = np.where(
            over > 0, tightened - np.maximum(2 * over, 1e-7 * 2**attempt), tightened
        )
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """HiGHS prints debugging lines to the process's standard output, where ``--json`` has its
    own.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _infeasible(instance: Instance) -> Infeasible:
    smallest = []
    binding = []
    for k, name in enumerate(instance.names):
        alone = float(sum(c[:, k].min() for c in instance.costs))
        smallest.append(f"{name} {alone:,.0f} beyond embedding and head")
        if alone > instance.limits[k]:
            binding.append(name)
    return Infeasible(
        "No choice of blocks meets the budget.",
        got=", ".join(
            f"{n} {v:,.0f} left for blocks"
            for n, v in zip(instance.names, instance.limits, strict=True)
        ),
        allowed="at least " + ", ".join(smallest) + " (the smallest reachable)",
        next=(
            f"Raise {' and '.join(binding) or 'one of them: together they leave nothing'}, or lower"
            " search.min_keep."
        ),
    )
