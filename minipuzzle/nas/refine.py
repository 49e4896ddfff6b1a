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
from minipuzzle.progress import SILENT, Progress


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
    progress: Progress = SILENT,
) -> Refined:
    """Move from ``start`` (whose measure is ``value``) to better states until no move helps or
    ``tries`` are spent.

    Lower is better. Moves are tried in the order of their predicted damage; the first that helps is
    taken. ``progress`` is told of moves tried.
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
            progress.advance()
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
                found[repaired] = choices.predicted(repaired)
    return sorted(found, key=lambda s: (found[s], [-1 if r is None else r for r in s]))


def repair(choices: Choices, state: State, touched: frozenset[int], drops: bool) -> State | None:
    """Shrink where the predicted damage grows least until the state fits, then grow where it falls
    most while it does; None where nothing fits.

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
                price = (choices.predicted(smaller) - choices.predicted(state)) / gain.sum()
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
        now = choices.predicted(state)
        larger = [s for s in larger if choices.predicted(s) < now]
        if not larger:
            return state
        state = min(larger, key=choices.predicted)


def _moves(choices: Choices, state: State) -> Iterator[tuple[State, frozenset[int]]]:
    """(a state one move away, the blocks that the move is about)."""
    layers, blocks = choices.parent.layer_groups, choices.parent.blocks
    dropped = [layer for layer in layers if state[layer[0]] is None]
    kept = [layer for layer in layers if state[layer[0]] is not None]
    for layer in kept:
        yield _with(state, dict.fromkeys(layer)), frozenset(layer)
    for layer in dropped:
        changed = _restored(choices, state, layer)
        if changed is None:
            continue
        back = _with(state, changed)
        yield back, frozenset(layer)
        for other in kept:
            if blocks[other[0]].kind == blocks[layer[0]].kind:
                yield _with(back, dict.fromkeys(other)), frozenset({*layer, *other})
    for direction in (+1, -1):
        for step in _steps(choices, state, frozenset(), direction, drops=False):
            yield step, frozenset(i for i, option in enumerate(step) if option != state[i])


def _steps(
    choices: Choices, state: State, touched: frozenset[int], direction: int, drops: bool = True
) -> Iterator[State]:
    """Each coupling one candidate size down (+1) or up (-1), and one block (or layer) dropped or
    restored.
    """
    members: dict[int, list[tuple[int, int]]] = {}  # coupling -> (block, its axis)
    for i, option in enumerate(state):
        if option is not None:
            for axis, coupling in enumerate(choices.couplings[i]):
                members.setdefault(coupling, []).append((i, axis))
    changed: dict[int, int | None] | None
    for axes in members.values():
        if touched.isdisjoint(i for i, _ in axes):
            changed = {i: _stepped(choices, state, i, axis, direction) for i, axis in axes}
            if None not in changed.values():
                yield _with(state, changed)
    for layer in choices.parent.layer_groups if drops else ():
        gone = state[layer[0]] is None
        if touched.isdisjoint(layer) and gone == (direction < 0):
            changed = _restored(choices, state, layer) if gone else dict.fromkeys(layer)
            if changed is not None:
                yield _with(state, changed)


def _stepped(choices: Choices, state: State, block: int, axis: int, direction: int) -> int | None:
    """The option of a block with the next candidate size of one axis; None where there is none."""
    number = state[block]
    assert number is not None
    sizes = list(choices.options[block][number])
    candidates = choices.candidate_sizes[block][axis]
    place = candidates.index(sizes[axis]) + direction
    if not 0 <= place < len(candidates):
        return None
    sizes[axis] = candidates[place]
    return choices.numbers[block].get(tuple(sizes))


def _restored(
    choices: Choices, state: State, layer: tuple[int, ...]
) -> dict[int, int | None] | None:
    """The options with which the blocks of a layer come back; None where one has none that suits
    the kept blocks.
    """
    changed = {i: _option_beside(choices, state, i) for i in layer}
    return None if None in changed.values() else changed


def _option_beside(choices: Choices, state: State, block: int) -> int | None:
    """The first option of a dropped block whose coupled axes have the sizes of kept blocks."""
    sizes = {
        coupling: size
        for i, number in enumerate(state)
        if number is not None
        for coupling, size in zip(choices.couplings[i], choices.options[i][number], strict=True)
    }
    wanted = [sizes.get(coupling) for coupling in choices.couplings[block]]
    for number, option in enumerate(choices.options[block]):
        if all(want in (None, size) for want, size in zip(wanted, option, strict=True)):
            return number
    return None


def _with(state: State, changes: dict[int, int | None]) -> State:
    return tuple(changes.get(i, option) for i, option in enumerate(state))
