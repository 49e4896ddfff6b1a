"""Local search on what candidates really do, where sums of one-block scores fail.

One-block scores do not know that two blocks stand in for each other, so the best sum is not the
best model (arXiv:2411.19146 measures one block at a time; NVIDIA Model Optimizer's own ablation
shows how that picks badly when many go). A move drops, restores, swaps or resizes, the rest is
repaired to fill the budget, and the moved model is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from minipuzzle.nas.choices import Choices, State


@dataclass(frozen=True, kw_only=True)
class Refined:
    """Where the local search ended, what it tried and whether no further move helps
    (``settled``).
    """

    state: State
    value: float
    tried: int
    accepted: int
    settled: bool


def refine(
    choices: Choices,
    start: State,
    value: float,
    measure: Callable[[State], float],
    tries: int,
    advance: Callable[[int], None] = lambda tried: None,
) -> Refined:
    """Move from ``start`` (whose measure is ``value``) to better states until no move helps or
    ``tries`` are spent.

    Lower is better. Moves are tried in the order of their predicted damage; the first that helps is
    taken.
    """
    seen = {start}
    tried = accepted = 0
    better = True
    while better and tried < tries:
        better = False
        for state in neighbours(choices, start):
            if state in seen:
                continue
            if tried == tries:
                return Refined(
                    state=start, value=value, tried=tried, accepted=accepted, settled=False
                )
            seen.add(state)
            found = measure(state)
            tried += 1
            advance(1)
            if found < value:
                start, value, better = state, found, True
                accepted += 1
                break
    return Refined(state=start, value=value, tried=tried, accepted=accepted, settled=not better)


def neighbours(choices: Choices, state: State) -> list[State]:
    """The states one repaired move away that keep every limit, least predicted damage first."""
    found = {}
    for moved, touched in _moves(choices, state):
        for drops in (True, False):
            repaired = repair(choices, moved, touched, drops)
            if repaired is not None and repaired != state:
                found[repaired] = choices.harm(repaired)
    return sorted(found, key=lambda s: (found[s], [-1 if r is None else r for r in s]))


def repair(choices: Choices, state: State, touched: frozenset[int], drops: bool) -> State | None:
    """Shrink what harms least until the state fits, then grow what helps most while it does; None
    where nothing fits.

    Blocks in ``touched`` stay as the move left them; without ``drops`` blocks are narrowed or
    widened, none goes or comes.
    """
    while not choices.fits(state):
        over = np.maximum(choices.cost(state) - choices.limits, 0) / np.maximum(
            choices.limits, 1e-12
        )
        best = None
        for smaller in _steps(choices, state, touched, +1, drops):
            gain = over - np.maximum(choices.cost(smaller) - choices.limits, 0) / np.maximum(
                choices.limits, 1e-12
            )
            if gain.sum() > 0:
                price = (choices.harm(smaller) - choices.harm(state)) / gain.sum()
                best = (
                    min(best, (price, smaller), key=lambda pair: pair[0])
                    if best
                    else (price, smaller)
                )
        if best is None:
            return None
        state = best[1]
    while True:
        larger = [s for s in _steps(choices, state, touched, -1, drops) if choices.fits(s)]
        harm = choices.harm(state)
        larger = [s for s in larger if choices.harm(s) < harm]
        if not larger:
            return state
        state = min(larger, key=choices.harm)


def _moves(choices: Choices, state: State) -> Iterator[tuple[State, frozenset[int]]]:
    layers = choices.parent.units
    dropped = [layer for layer in layers if state[layer[0]] is None]
    kept = [layer for layer in layers if state[layer[0]] is not None]
    for layer in kept:
        yield _without(state, layer), frozenset(layer)
    for layer in dropped:
        back = _restored(choices, state, layer)
        yield back, frozenset(layer)
        for other in kept:
            if choices.parent.blocks[other[0]].kind == choices.parent.blocks[layer[0]].kind:
                yield _without(back, other), frozenset({*layer, *other})
    for direction in (+1, -1):
        for step in _steps(choices, state, frozenset(), direction, drops=False):
            yield step, frozenset(i for i, rung in enumerate(step) if rung != state[i])


def _steps(
    choices: Choices, state: State, touched: frozenset[int], direction: int, drops: bool = True
) -> Iterator[State]:
    """One rung down (+1) or up (-1) for each unit, and one block (or layer) dropped or restored."""
    units: dict[int, list[int]] = {}
    for i, rung in enumerate(state):
        if rung is not None:
            units.setdefault(choices.unit[i], []).append(i)
    for members in units.values():
        if touched.isdisjoint(members):
            rung = (state[members[0]] or 0) + direction
            if 0 <= rung < len(choices.sizes[members[0]]):
                yield _with(state, dict.fromkeys(members, rung))
    for layer in choices.parent.units if drops else ():
        gone = state[layer[0]] is None
        if touched.isdisjoint(layer) and gone == (direction < 0):
            yield _restored(choices, state, layer) if gone else _without(state, layer)


def _restored(choices: Choices, state: State, layer: tuple[int, ...]) -> State:
    return _with(state, {i: _rung_of_unit(choices, state, i) for i in layer})


def _without(state: State, layer: tuple[int, ...]) -> State:
    return _with(state, dict.fromkeys(layer))


def _rung_of_unit(choices: Choices, state: State, block: int) -> int:
    mates = [
        r for i, r in enumerate(state) if r is not None and choices.unit[i] == choices.unit[block]
    ]
    return mates[0] if mates else 0


def _with(state: State, changes: dict[int, int | None]) -> State:
    return tuple(changes.get(i, rung) for i, rung in enumerate(state))
