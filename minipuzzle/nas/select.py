"""From a shape and scores to the blocks, heads and channels that stay, and to a list of
candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture, Selection
from minipuzzle.errors import UserError
from minipuzzle.kinds import Attention, FeedForward, Mamba2
from minipuzzle.kinds.ranking import top, top_heads, top_kv_heads
from minipuzzle.nas.damage import AXES, drop_damage, hidden_damage, size_damage
from minipuzzle.nas.enumerate import HIDDEN, Feasible
from minipuzzle.scores import Scores
from minipuzzle.space import Shape

SIZES = {"mlp": 3, "mamba": 4}
"""The column of a grid point that has the size of a kind's blocks."""


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
    """The top-n blocks of each kind, the top channels of each FFN, the top heads of each Mamba
    group.

    Where blocks stay or go as layers, the measured score of a layer counts. Source:
    arXiv:2504.03624 (conditional NAS: each point keeps what importance ranks first).
    """
    wanted = {"attention": shape.attention, "mlp": shape.mlp, "mamba": shape.mamba}
    kept = {
        i
        for kind, units in ranked_units(parent, scores).items()
        for unit in units[: wanted[kind]]
        for i in unit
    }
    sizes = {"mlp": shape.intermediate, "mamba": shape.heads}
    blocks = [
        narrowed(parent, scores, i, sizes.get(block.kind)) if i in kept else None
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
            next="Run minipuzzle score again, or leave --hidden-size out.",
        )
    return top(scores.hidden, size)


def ranked_units(parent: Architecture, scores: Scores) -> dict[str, list[tuple[int, ...]]]:
    """The blocks that stay or go together, by the kind of the first of them, best first; of equal
    ones the first.
    """
    found: dict[str, list[tuple[int, ...]]] = {}
    drops = drop_damage(scores)
    for unit in sorted(parent.units, key=lambda unit: (-float(drops[list(unit)].sum()), unit)):
        found.setdefault(parent.blocks[unit[0]].kind, []).append(unit)
    return found


def narrowed(
    parent: Architecture, scores: Scores, index: int, size: int | None
) -> dict[str, tuple[int, ...]]:
    """What block ``index`` keeps at a size of its axis (FFN channels, Mamba heads, KV heads):
    nothing named when whole.

    Raises: UserError where the scores have none for query heads.
    """
    block = parent.blocks[index]
    if isinstance(block, FeedForward) and size is not None and size < block.intermediate:
        return {"intermediate": top(scores.widths["intermediate"][index], size)}
    if isinstance(block, Mamba2) and size is not None and size < block.heads:
        return {"heads": top_heads(scores.widths["head_channels"][index], size, block.groups)}
    if isinstance(block, Attention) and size is not None and size < block.kv_heads:
        if "q_heads" not in scores.of(index):
            raise UserError(
                "The scores have none for attention heads.",
                got=f"an estimator without them in block {index}",
                allowed="scores with q_heads",
                next="Run minipuzzle score again, or leave KV heads whole.",
            )
        return top_kv_heads(scores.widths["q_heads"][index], size, block.kv_heads)
    return {}


def damage(parent: Architecture, scores: Scores, selection: Selection) -> float:
    """Predicted harm: the scores of dropped blocks, and of narrowed ones and of the hidden size
    what curves or cut-off channels say.

    Sums of one-block errors: they only order candidates before these are realised, which is what
    decides.
    """
    drops = drop_damage(scores)
    total = 0.0 if selection.hidden is None else hidden_damage(scores, len(selection.hidden))
    for i, kept in enumerate(selection.blocks):
        axis = AXES[parent.blocks[i].kind]
        if kept is None:
            total += float(drops[i])
        elif axis in kept:
            total += size_damage(parent, scores, i, len(kept[axis]))
    return total


def candidates(
    parent: Architecture, scores: Scores, feasible: Feasible, maximal: NDArray[np.bool_], limit: int
) -> list[Candidate]:
    """The ``limit`` shapes with the least predicted damage, maximal ones first: what a larger one
    keeps, it keeps too.

    Damage is read off tables for all shapes, so hundreds of thousands are ordered in well under a
    second; only the ``limit`` chosen are selected.
    """
    harm_of = _damages(parent, scores, feasible.shapes)
    found = []
    for index in [int(i) for i in np.lexsort((harm_of, ~maximal))[:limit]]:
        shape = feasible.shape(index)
        selection = select(parent, scores, shape)
        found.append(
            (not maximal[index], damage(parent, scores, selection), shape, selection, index)
        )
    found.sort(key=lambda entry: entry[:3])
    return [
        Candidate(
            name=f"c{number:03}",
            origin="grid",
            selection=selection,
            damage=harm,
            parameters=int(feasible.parameters[index]),
            bytes=int(feasible.bytes[index]),
        )
        for number, (_, harm, shape, selection, index) in enumerate(found, start=1)
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


def _damages(
    parent: Architecture, scores: Scores, shapes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[n] float64: ``damage`` of ``select`` for shapes [n, 6], from one table [kept units] for each
    kind and size.
    """
    sizes, of_size = np.unique(shapes[:, HIDDEN], return_inverse=True)
    total = np.array(
        [0.0 if size == parent.hidden else hidden_damage(scores, int(size)) for size in sizes]
    )[of_size]
    columns, drops = {"attention": 0, "mlp": 1, "mamba": 2}, drop_damage(scores)
    for kind, ranked in ranked_units(parent, scores).items():
        harms = np.array([drops[list(unit)].sum() for unit in ranked])
        dropped = harms.sum() - np.concatenate([[0.0], np.cumsum(harms)])
        sized = [SIZES[parent.blocks[i].kind] for i in ranked[0] if parent.blocks[i].kind in SIZES]
        for values in product(*(np.unique(shapes[:, column]) for column in sized)):
            size = {column: int(value) for column, value in zip(sized, values, strict=True)}
            narrow = [
                sum(
                    size_damage(parent, scores, i, size[SIZES[parent.blocks[i].kind]])
                    for i in unit
                    if parent.blocks[i].kind in SIZES
                )
                for unit in ranked
            ]
            table = dropped + np.concatenate([[0.0], np.cumsum(narrow)])
            here = np.ones(len(shapes), dtype=bool)
            for column, value in size.items():
                here &= shapes[:, column] == value
            total[here] += table[shapes[here, columns[kind]]]
    return total
