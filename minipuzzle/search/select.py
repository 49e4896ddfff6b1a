"""From a shape and scores to the blocks, heads and channels that stay, and to a list of candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture, FeedForward, Mamba2, Selection
from minipuzzle.arch.ranking import top, top_heads
from minipuzzle.artifacts import Scores
from minipuzzle.search.enumerate import Feasible
from minipuzzle.space import Shape


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A shape with the selection that importance gives it. ``damage`` is predicted; ``bytes`` is memory at the workload."""

    name: str
    shape: Shape
    selection: Selection
    damage: float
    parameters: int
    bytes: int


def select(parent: Architecture, scores: Scores, shape: Shape) -> Selection:
    """The top-n blocks of each kind, the top channels of each FFN, the top heads of each Mamba group.

    Source: arXiv:2504.03624 (conditional NAS: each point keeps what importance ranks first).
    """
    wanted = {"attention": shape.attention, "mlp": shape.mlp, "mamba": shape.mamba}
    kept: set[int] = set()
    for kind, count in wanted.items():
        ranked = sorted(parent.indices(kind), key=lambda i: (-scores.blocks[i], i))
        kept.update(ranked[:count])
    blocks: list[dict[str, tuple[int, ...]] | None] = []
    for i, block in enumerate(parent.blocks):
        if i not in kept:
            blocks.append(None)
        elif isinstance(block, FeedForward) and shape.intermediate < block.intermediate:
            blocks.append({"intermediate": top(scores.intermediate[i], shape.intermediate)})
        elif isinstance(block, Mamba2) and shape.heads < block.heads:
            blocks.append({"heads": top_heads(scores.head_channels[i], shape.heads, block.groups)})
        else:
            blocks.append({})
    return Selection(blocks=tuple(blocks))


def damage(scores: Scores, selection: Selection) -> float:
    """Predicted harm: the scores of dropped blocks, and of narrowed ones the share of squared channel scores cut off.

    Ours: it only orders candidates before they are realised, which is what decides.
    """
    total = 0.0
    for i, kept in enumerate(selection.blocks):
        if kept is None:
            total += float(scores.blocks[i])
        elif "intermediate" in kept:
            total += float(scores.blocks[i]) * _lost(scores.intermediate[i], kept["intermediate"])
        elif "heads" in kept:
            strength = np.sqrt(np.square(scores.head_channels[i]).sum(axis=1))
            total += float(scores.blocks[i]) * _lost(strength, kept["heads"])
    return total


def candidates(
    parent: Architecture, scores: Scores, feasible: Feasible, maximal: NDArray[np.bool_], limit: int
) -> list[Candidate]:
    """The ``limit`` shapes with the least predicted damage, maximal ones first: what a larger one keeps, it keeps too.

    Damage is read off tables for all shapes, so hundreds of thousands are ordered in well under a second; only the
    ``limit`` chosen are selected.
    """
    harm_of = _damages(parent, scores, feasible.shapes)
    found = []
    for index in [int(i) for i in np.lexsort((harm_of, ~maximal))[:limit]]:
        shape = feasible.shape(index)
        selection = select(parent, scores, shape)
        found.append((not maximal[index], damage(scores, selection), shape, selection, index))
    found.sort(key=lambda entry: entry[:3])
    return [
        Candidate(
            name=f"c{number:03}", shape=shape, selection=selection, damage=harm,
            parameters=int(feasible.parameters[index]), bytes=int(feasible.bytes[index]),
        )
        for number, (_, harm, shape, selection, index) in enumerate(found, start=1)
    ]  # fmt: skip


def _damages(parent: Architecture, scores: Scores, shapes: NDArray[np.int64]) -> NDArray[np.float64]:
    """[n] float64: ``damage`` of ``select`` for shapes [n, 5], from one table [kept blocks, widths] for each kind."""
    total = np.zeros(len(shapes))
    for column, (kind, size) in enumerate({"attention": None, "mlp": 3, "mamba": 4}.items()):
        ranked = sorted(parent.indices(kind), key=lambda i: (-scores.blocks[i], i))
        harms = scores.blocks[ranked]
        curves = [_lost_curve(parent, scores, i) for i in ranked]
        dropped = harms.sum() - np.concatenate([[0.0], np.cumsum(harms)])
        sizes = shapes[:, size] if size else np.zeros(len(shapes), dtype=np.int64)
        for value in np.unique(sizes):
            lost = [curve[min(value, len(curve) - 1)] for curve in curves]
            table = dropped + np.concatenate([[0.0], np.cumsum(harms * lost)])
            here = sizes == value
            total[here] += table[shapes[here, column]]
    return total


def _lost_curve(parent: Architecture, scores: Scores, index: int) -> NDArray[np.float64]:
    """[size + 1] float64: the share of squared scores lost when a block keeps 0, 1, ... of its channels or heads."""
    block = parent.blocks[index]
    if isinstance(block, FeedForward):
        values = scores.intermediate[index][None]
    elif isinstance(block, Mamba2):
        values = np.sqrt(np.square(scores.head_channels[index]).sum(axis=1)).reshape(block.groups, -1)
    else:
        return np.zeros(1)
    squares = np.square(-np.sort(-values, axis=1))
    whole = squares.sum()
    kept = np.concatenate([[0.0], np.cumsum(squares.sum(axis=0))])
    lost = 1 - kept / whole if whole > 0 else np.zeros(len(kept))
    lost[-1] = 0.0
    return np.repeat(lost, len(values))


def _lost(values: NDArray[np.float64], kept: tuple[int, ...]) -> float:
    squares = np.square(values)
    whole = squares.sum()
    # A block whose channels all score zero loses nothing with any of them.
    return float(1 - squares[list(kept)].sum() / whole) if whole > 0 else 0.0
