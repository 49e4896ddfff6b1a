"""What may become of each block: kept at one of several sizes, or dropped; with the damage and the
cost of each.

A block's sizes are a ladder, the whole block first. Blocks of one ``unit`` change size together:
all Mamba blocks where heads are to be the same everywhere, because no engine serves other; one
block alone where its size is its own. Blocks of one layer are dropped together where the parent's
family writes only whole layers. Source: Puzzle's space of one choice a block (arXiv:2411.19146),
without its replacement blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture, Selection
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2
from minipuzzle.nas.damage import AXES, drop_damage, hidden_damage, size_damage
from minipuzzle.nas.select import kept_hidden, narrowed
from minipuzzle.scores import Scores
from minipuzzle.settings import SearchSettings
from minipuzzle.space import Bounds

State = tuple[int | None, ...]
"""For each block the rung of its ladder, 0 the whole block, or None where it is dropped."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """``sizes[i]`` descending, ``damage[i]`` [rungs + 1] and ``costs[i]`` [rungs + 1, m]: the last
    entry drops the block.

    ``unit[i]`` is the block's unit. ``limits`` [m] are what is left for blocks. ``hidden`` are the
    hidden channels that all states keep, None for all of them, and ``narrower`` what that is
    predicted to harm.
    """

    parent: Architecture
    scores: Scores
    sizes: tuple[tuple[int, ...], ...]
    damage: tuple[NDArray[np.float64], ...]
    costs: tuple[NDArray[np.float64], ...]
    unit: tuple[int, ...]
    limits: NDArray[np.float64]
    names: tuple[str, ...]
    hidden: tuple[int, ...] | None = None
    narrower: float = 0.0

    def cost(self, state: State) -> NDArray[np.float64]:
        """[m] of a state's blocks."""
        total: NDArray[np.float64] = sum(
            (self.costs[i][self.column(i, r)] for i, r in enumerate(state)), self.limits * 0
        )
        return total

    def harm(self, state: State) -> float:
        """The predicted damage of a state: the sum over its blocks, and that of the hidden size."""
        return float(
            self.narrower + sum(self.damage[i][self.column(i, r)] for i, r in enumerate(state))
        )

    def fits(self, state: State) -> bool:
        """Whether a state keeps every limit."""
        return bool((self.cost(state) <= self.limits).all())

    def column(self, block: int, rung: int | None) -> int:
        """Where a rung, or dropping the block, stands in ``damage`` and ``costs``."""
        return len(self.sizes[block]) if rung is None else rung

    def selection(self, state: State) -> Selection:
        """The blocks, heads and channels that a state keeps, by the scores."""
        kept = [
            None if rung is None else narrowed(self.parent, self.scores, i, self.sizes[i][rung])
            for i, rung in enumerate(state)
        ]
        return Selection(blocks=tuple(kept), hidden=self.hidden)

    def state(self, selection: Selection) -> State | None:
        """The state of a selection; None where it has a size that is on no ladder, or another
        hidden size.
        """
        if selection.hidden != self.hidden:
            return None
        found: list[int | None] = []
        for i, kept in enumerate(selection.blocks):
            if kept is None:
                found.append(None)
                continue
            block, axis = self.parent.blocks[i], AXES[self.parent.blocks[i].kind]
            size = len(kept[axis]) if axis in kept else block.sizes[axis]
            if size not in self.sizes[i] or set(kept) - {axis, "q_heads"}:
                return None
            found.append(self.sizes[i].index(size))
        return tuple(found)


def make_choices(
    parent: Architecture,
    scores: Scores,
    space: Bounds,
    settings: SearchSettings,
    of: Callable[[Block], NDArray[np.float64]],
    left: NDArray[np.float64],
    names: tuple[str, ...],
    hidden: int | None = None,
) -> Choices:
    """The choices of a parent at a hidden size (default: its own). ``of`` prices a block [m] at
    that size, ``left`` [m] is the budget without embedding, head and norm.
    """
    hidden = hidden or parent.hidden
    own = {
        "mlp": parent.rules.per_block_sizes and not settings.uniform,
        "mamba": settings.per_block_heads,
        "attention": False,
    }
    sizes, damage, costs, unit, drops = [], [], [], [], drop_damage(scores)
    priced: dict[Block, NDArray[np.float64]] = {}
    for i, block in enumerate(parent.blocks):
        ladder = _ladder(block, space, settings)
        sizes.append(ladder)
        damage.append(
            np.array([*(size_damage(parent, scores, i, size) for size in ladder), drops[i]])
        )
        rungs = [resized(block, size) for size in ladder]
        for rung in rungs:
            if rung not in priced:
                priced[rung] = of(rung)
        costs.append(np.array([*(priced[rung] for rung in rungs), left * 0]))
        unit.append(i if own[block.kind] else -1 - list(AXES).index(block.kind))
    return Choices(
        parent=parent,
        scores=scores,
        sizes=tuple(sizes),
        damage=tuple(damage),
        costs=tuple(costs),
        unit=tuple(unit),
        limits=left,
        names=names,
        hidden=kept_hidden(parent, scores, hidden),
        narrower=hidden_damage(scores, hidden),
    )


def resized(block: Block, size: int) -> Block:
    """A block at another size of its axis; an attention block keeps its query heads per KV head."""
    return block.resized(**block.widths[0].sizes(block, size))


def whole(choices: Choices) -> State:
    """The state that keeps everything."""
    return tuple(0 for _ in choices.sizes)


def combinations(choices: Choices) -> list[State]:
    """Every state that keeps units together: for brute force in tests."""
    ranges = [[*range(len(s)), None] for s in choices.sizes]
    return [state for state in product(*ranges) if coupled(choices, state)]


def coupled(choices: Choices, state: State) -> bool:
    """Whether the kept blocks of each unit have one size, and no layer is torn."""
    seen: dict[int, int] = {}
    whole_layers = all(
        len({state[i] is None for i in layer}) == 1 for layer in choices.parent.units
    )
    return whole_layers and all(
        rung is None or seen.setdefault(choices.unit[i], rung) == rung
        for i, rung in enumerate(state)
    )


def _ladder(block: Block, space: Bounds, settings: SearchSettings) -> tuple[int, ...]:
    if isinstance(block, FeedForward):
        return tuple(
            sorted((s for s in space.intermediate if s <= block.intermediate), reverse=True)
        )
    if isinstance(block, Mamba2):
        return tuple(sorted((s for s in space.heads if s <= block.heads), reverse=True))
    assert isinstance(block, Attention)
    if settings.kv_heads:
        return tuple(s for s in range(block.kv_heads, 0, -1) if block.kv_heads % s == 0)
    return (block.kv_heads,)
