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
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from minipuzzle.errors import UserError
from minipuzzle.nas.program import Array, Instance, Program, make_program

ATTEMPTS = 12
SECONDS, CHOICES_A_SECOND, LONGEST = 4.0, 600, 60.0


class Infeasible(UserError):
    """No choice meets the limits."""


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


def solve(instance: Instance, *, seconds: float | None = None, gap: float = 0.0) -> Solution:
    """The choices with the least summed damage within the limits, proven to ``gap`` or the best
    found in ``seconds``.

    By default a second for every CHOICES_A_SECOND choices, at least SECONDS: the best is found
    early, and what is left of the proof is in the solution's gap.

    Raises: UserError where no choice meets the limits: names those that bind and the smallest
    reachable.
    """
    found = _solve(make_program(instance), instance.limits, [], seconds or _patience(instance), gap)
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
    program = make_program(instance)
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
    program = make_program(instance)
    found = []
    for limit in limits:
        solution = _solve(program, np.asarray(limit, dtype=np.float64), [], seconds, gap)
        if solution is None:
            raise _infeasible(replace(instance, limits=np.asarray(limit, dtype=np.float64)))
        found.append(solution)
    return found


def _patience(instance: Instance) -> float:
    return max(SECONDS, sum(len(damage) for damage in instance.damage) / CHOICES_A_SECOND)


def _solve(
    program: Program, limits: Array, cuts: Sequence[LinearConstraint], seconds: float, gap: float
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
            # a busy machine, or a hard one: better late than never
            if result.status == 1 and seconds < LONGEST:
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
            if damage - bound > 1e-9 / program.scale:
                left = (damage - bound) / max(damage, 1e-300)
            else:
                left = 0.0
            return Solution(
                choices=chosen,
                damage=damage,
                costs=costs,
                bound=bound,
                gap=left,
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
