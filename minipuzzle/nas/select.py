"""From a shape and scores to the blocks, heads and channels that stay, and to a list of
candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture, Selection
from minipuzzle.arch.narrow import kept, kept_sizes
from minipuzzle.errors import UserError
from minipuzzle.kinds.width import top
from minipuzzle.nas.damage import block_damage, drop_damage, hidden_damage
from minipuzzle.nas.enumerate import Feasible
from minipuzzle.nas.grid import Grid
from minipuzzle.scores import Scores
from minipuzzle.space import Shape


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A selection that fits. ``origin`` says who proposed it ("grid", "solver", "local search");
    ``damage`` is predicted; ``bytes`` is memory at the workload.
    """

    name: str
    origin: str
    selection: Selection
    damage: float
    parameters: int
    bytes: int


def select(parent: Architecture, scores: Scores, shape: Shape) -> Selection:
    """The top-n blocks of each kind, and in each its best channels and heads.

    Where blocks stay or go as layers, the measured score of a layer counts. Source:
    arXiv:2504.03624 (conditional NAS: each point keeps what importance ranks first).
    """
    counts, sizes = dict(shape.counts), dict(shape.sizes)
    stay = {
        i
        for kind, groups in ranked_layers(parent, scores).items()
        for group in groups[: counts[kind]]
        for i in group
    }
    blocks = [
        kept(block, scores.of(i), sizes) if i in stay else None
        for i, block in enumerate(parent.blocks)
    ]
    return Selection(blocks=tuple(blocks), hidden=kept_hidden(parent, scores, shape.hidden))


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
    drops = drop_damage(scores)
    total = 0.0 if selection.hidden is None else hidden_damage(scores, len(selection.hidden))
    for i, stays in enumerate(selection.blocks):
        if stays is None:
            total += float(drops[i])
        else:
            total += block_damage(parent, scores, i, kept_sizes(parent.blocks[i], stays))
    return total


def candidates(
    parent: Architecture, scores: Scores, feasible: Feasible, maximal: NDArray[np.bool_], limit: int
) -> list[Candidate]:
    """The ``limit`` shapes with the least predicted damage, maximal ones first: what a larger one
    keeps, it keeps too.

    Damage is read off tables for all shapes, so hundreds of thousands are ordered in well under a
    second; only the ``limit`` chosen are selected.
    """
    predicted = _damages(parent, scores, feasible.grid)
    found = []
    for index in [int(i) for i in np.lexsort((predicted, ~maximal))[:limit]]:
        selection = select(parent, scores, feasible.shape(index))
        amount = damage(parent, scores, selection)
        point = tuple(feasible.grid.points[index].tolist())
        found.append((not maximal[index], amount, point, selection, index))
    found.sort(key=lambda entry: entry[:3])
    return [
        Candidate(
            name=f"c{number:03}",
            origin="grid",
            selection=selection,
            damage=amount,
            parameters=int(feasible.parameters[index]),
            bytes=int(feasible.bytes[index]),
        )
        for number, (_, amount, _, selection, index) in enumerate(found, start=1)
    ]


def largest(
    parent: Architecture, scores: Scores, feasible: Feasible, count: int
) -> list[Candidate]:
    """The ``count`` shapes with the most parameters, from which NVIDIA's mcore_minitron chooses
    (Model Optimizer).

    Where many blocks go at once, sums of one-block scores can leave the best of these out.
    """
    found = []
    for number, index in enumerate(
        np.argsort(-feasible.parameters, kind="stable")[:count], start=1
    ):
        selection = select(parent, scores, feasible.shape(int(index)))
        found.append(
            Candidate(
                name=f"l{number:03}",
                origin="largest",
                selection=selection,
                damage=damage(parent, scores, selection),
                parameters=int(feasible.parameters[index]),
                bytes=int(feasible.bytes[index]),
            )
        )
    return found


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
        axes = [axis for axis in dict.fromkeys(w.axis for w in widths) if axis in points.axes]
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
