"""Which options of a block a least damage may need: those that no other option beats.

An option beats another where it does no more damage and costs no more under every limit: then it
may take the other's place. What a block shares with others has to stay the same, unless all of
these change at once: blocks that share all their sizes are compared as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SOLVED = 64
"""Up to so many options of a block the solver gets all of them, else those that may be best."""


def worthwhile(
    options: Sequence[Sequence[tuple[int, ...]]],
    damage: Sequence[NDArray[np.float64]],
    costs: Sequence[NDArray[np.float64]],
    couplings: Sequence[tuple[int, ...]],
) -> tuple[NDArray[np.int64], ...]:
    """For each block the columns to choose among, ascending, dropping it the last; arguments as in
    ``Choices``. Of at most SOLVED options all are.
    """
    together = Counter(coupling for each in couplings for coupling in each)
    found: list[NDArray[np.int64]] = []
    known: dict[tuple[int, ...], NDArray[np.int64]] = {}
    for i, mine in enumerate(options):
        alike = tuple(
            k
            for k, other in enumerate(options)
            if couplings[k] == couplings[i] and (other is mine or other == mine)
        )
        if alike not in known:
            kept = np.ones(len(mine), dtype=bool)
            if len(mine) > SOLVED:
                shared = [a for a, c in enumerate(couplings[i]) if together[c] > len(alike)]
                # [options, blocks x (1 + limits)]
                values = np.column_stack([v[k][:-1] for k in alike for v in (damage, costs)])
                sizes = np.array(mine)[:, shared]  # [options, shared axes]
                for same in np.unique(sizes, axis=0):
                    here = np.flatnonzero((sizes == same).all(axis=1))
                    kept[here] = unbeaten(values[here])
            known[alike] = np.append(np.flatnonzero(kept), len(mine))
        found.append(known[alike])
    return tuple(found)


def unbeaten(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[n] bool: the rows of ``values`` [n, m] than which no other is as small in all columns, the
    first one of equal rows.
    """
    kept = np.ones(len(values), dtype=bool)
    for place in np.lexsort(values.T[::-1]):
        if kept[place]:
            beaten = (values >= values[place]).all(axis=1)
            beaten[place] = False
            kept &= ~beaten
    return kept
