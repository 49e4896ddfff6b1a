"""From a shape and scores to the blocks, heads and channels that stay, and to a list of
candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture, Selection
from minipuzzle.arch.narrow import Sizes, kept, kept_sizes, resized
from minipuzzle.errors import UserError
from minipuzzle.kinds.width import top
from minipuzzle.nas.damage import block_damage, drop_damage, hidden_damage
from minipuzzle.nas.enumerate import Feasible
from minipuzzle.nas.grid import Grid
from minipuzzle.scores import Scores
from minipuzzle.settings.bits import AXIS, number
from minipuzzle.space import Shape

NONE: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What fits. ``origin`` says who proposed it ("grid", "solver", "local search"); ``damage`` is
    predicted; ``bytes`` is memory at the workload. ``blocks`` are the positions of the kept blocks,
    ``hidden`` the kept hidden channels, None for all of them, ``bits`` those of each kept block
    where a search chose them.
    """

    name: str
    origin: str
    student: Architecture
    blocks: tuple[int, ...]
    hidden: tuple[int, ...] | None
    damage: float
    bytes: int
    select: Callable[[], Selection] = field(repr=False, compare=False)
    bits: tuple[int, ...] = ()

    @property
    def path(self) -> tuple[str, ...]:
        """What it does from the first block on, to sort by: candidates beside each other agree on
        many.
        """
        kept = dict(zip(self.blocks, map(str, self.student.blocks), strict=True))
        stop = max(self.blocks, default=-1) + 1
        return (str(self.hidden), *(kept.get(i, "") for i in range(stop)))

    @property
    def selection(self) -> Selection:
        """What it keeps, made anew each time: of hundreds of candidates whose experts keep channels
        of their own, the indices would not fit in memory.
        """
        return self.select()

    @property
    def parameters(self) -> int:
        """How many it has."""
        return self.student.parameters


def select(
    parent: Architecture, scores: Scores, shape: Shape, names: Mapping[int, str] = NONE
) -> Selection:
    """The top-n blocks of each kind, and in each its best channels and heads; all in the format
    that ``names`` has for the shape's bits.

    Where blocks stay or go as layers, the measured score of a layer counts. Source:
    arXiv:2504.03624 (conditional NAS: each point keeps what importance ranks first).
    """
    stay, sizes = set(_kept_blocks(parent, scores, shape)), dict(shape.sizes)
    blocks = [
        kept(block, scores.of(i), sizes) if i in stay else None
        for i, block in enumerate(parent.blocks)
    ]
    format = names[sizes[AXIS]] if AXIS in sizes else None
    return Selection(
        blocks=tuple(blocks),
        hidden=kept_hidden(parent, scores, shape.hidden),
        formats=None if format is None else tuple("" if b is None else format for b in blocks),
    )


def _kept_blocks(parent: Architecture, scores: Scores, shape: Shape) -> tuple[int, ...]:
    counts = dict(shape.counts)
    return tuple(
        sorted(
            i
            for kind, groups in ranked_layers(parent, scores).items()
            for group in groups[: counts[kind]]
            for i in group
        )
    )


def student_of(parent: Architecture, sizes: Mapping[int, Sizes], hidden: int) -> Architecture:
    """What is left where the blocks of ``sizes`` stay, each at its sizes."""
    blocks = tuple(resized(parent.blocks[i], sizes[i]) for i in sorted(sizes))
    return replace(parent, blocks=blocks).at_hidden(hidden)


def kept_hidden(parent: Architecture, scores: Scores, size: int) -> tuple[int, ...] | None:
    """The ``size`` best hidden channels, ascending; None for all of them.

    Raises: UserError where the scores have none for hidden channels.
    """
    if size == parent.hidden:
        return None
    if scores.hidden is None:
        raise UserError(
            "The scores have none for hidden channels.",
            got=f"estimator {scores.meta.get('estimator')}",
            allowed="scores with hidden",
            next="Run minipuzzle score again, or leave search.hidden_size out.",
        )
    return top(scores.hidden, size)


def ranked_layers(parent: Architecture, scores: Scores) -> dict[str, list[tuple[int, ...]]]:
    """The blocks that stay or go together, by the kind of the first of them, best first; of equal
    ones the first.
    """
    found: dict[str, list[tuple[int, ...]]] = {}
    drops = drop_damage(scores)
    for group in sorted(
        parent.layer_groups, key=lambda group: (-float(drops[list(group)].sum()), group)
    ):
        found.setdefault(parent.blocks[group[0]].kind, []).append(group)
    return found


def damage(parent: Architecture, scores: Scores, selection: Selection) -> float:
    """Predicted damage: the scores of dropped blocks, and of narrowed ones and of the hidden size
    what curves or cut-off channels say.

    Sums of one-block errors: they only order candidates before these are evaluated, which is what
    decides.
    """
    sizes = {
        i: kept_sizes(parent.blocks[i], stays)
        for i, stays in enumerate(selection.blocks)
        if stays is not None
    }
    for i, name in enumerate(selection.formats or ()):
        if i in sizes:
            sizes[i] = sizes[i] | {AXIS: number(name)}
    hidden = parent.hidden if selection.hidden is None else len(selection.hidden)
    return _damage(parent, scores, sizes, hidden)


def _damage(parent: Architecture, scores: Scores, sizes: Mapping[int, Sizes], hidden: int) -> float:
    drops = drop_damage(scores)
    total = 0.0 if hidden == parent.hidden else hidden_damage(scores, hidden)
    for i in range(len(parent.blocks)):
        if i in sizes:
            total += block_damage(parent, scores, i, sizes[i])
        else:
            total += float(drops[i])
    return total


def candidates(
    parent: Architecture,
    scores: Scores,
    feasible: Feasible,
    maximal: NDArray[np.bool_],
    limit: int,
    names: Mapping[int, str] = NONE,
) -> list[Candidate]:
    """The ``limit`` shapes with the least predicted damage, maximal ones first: what a larger one
    keeps, it keeps too.

    Damage is read off tables for all shapes, so hundreds of thousands are ordered in well under a
    second.
    """
    predicted = _damages(parent, scores, feasible.grid)
    found = []
    for index in [int(i) for i in np.lexsort((predicted, ~maximal))[:limit]]:
        made = _candidate(parent, scores, feasible, index, "grid", names)
        point = tuple(feasible.grid.points[index].tolist())
        found.append((not maximal[index], made.damage, point, made))
    found.sort(key=lambda entry: entry[:3])
    return [replace(made, name=f"c{n:03}") for n, (*_, made) in enumerate(found, start=1)]


def largest(
    parent: Architecture,
    scores: Scores,
    feasible: Feasible,
    count: int,
    names: Mapping[int, str] = NONE,
) -> list[Candidate]:
    """The ``count`` shapes with the most parameters, from which NVIDIA's mcore_minitron chooses
    (Model Optimizer).

    Where many blocks go at once, sums of one-block scores can leave the best of these out.
    """
    order = np.argsort(-feasible.parameters, kind="stable")[:count].tolist()
    found = [_candidate(parent, scores, feasible, index, "largest", names) for index in order]
    return [replace(made, name=f"l{n:03}") for n, made in enumerate(found, start=1)]


def _candidate(
    parent: Architecture,
    scores: Scores,
    feasible: Feasible,
    index: int,
    origin: str,
    names: Mapping[int, str],
) -> Candidate:
    """A point as a candidate that has no name yet."""
    shape = feasible.shape(index)
    stay, sizes = _kept_blocks(parent, scores, shape), dict(shape.sizes)
    hidden = kept_hidden(parent, scores, shape.hidden)
    return Candidate(
        name="",
        origin=origin,
        student=student_of(parent, dict.fromkeys(stay, sizes), shape.hidden),
        blocks=stay,
        hidden=hidden,
        damage=_damage(parent, scores, dict.fromkeys(stay, sizes), shape.hidden),
        bytes=int(feasible.bytes[index]),
        select=partial(select, parent, scores, shape, names),
        bits=(sizes[AXIS],) * len(stay) if AXIS in sizes else (),
    )


def _damages(parent: Architecture, scores: Scores, points: Grid) -> NDArray[np.float64]:
    """[n] float64: ``damage`` of ``select`` for points [n], from one table [kept layers + 1] for
    each kind, and for each size of each of its axes.
    """
    total = np.zeros(len(points))
    for size, here in points.by_hidden():
        total[here] = 0.0 if size == parent.hidden else hidden_damage(scores, size)
    drops = drop_damage(scores)
    for kind, ranked in ranked_layers(parent, scores).items():
        each = np.array([drops[list(group)].sum() for group in ranked])
        dropped = each.sum() - np.concatenate([[0.0], np.cumsum(each)])
        total += dropped[points.column(kind)]
        widths = [width for i in ranked[0] for width in parent.blocks[i].searched]
        named = dict.fromkeys([*(w.axis for w in widths), AXIS])
        axes = [axis for axis in named if axis in points.axes]
        for axis in axes:
            column = points.column(axis)
            for size in np.unique(column).tolist():
                narrow = [
                    sum(block_damage(parent, scores, i, {axis: size}) for i in group)
                    for group in ranked
                ]
                table = np.concatenate([[0.0], np.cumsum(narrow)])
                here = column == size
                total[here] += table[points.column(kind)[here]]
    return total
