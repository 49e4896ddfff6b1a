"""What may become of each block: kept at one of several sizes, or dropped; with the predicted
damage and the cost of each.

An option of a block is a size for each axis that its kind lets the search choose, the whole block
first. Axes with one ``coupling`` have one size in all blocks: the heads of all Mamba blocks,
because most engines serve no other; an axis alone in its coupling differs from block to block.
Blocks of one layer are dropped together where the parent's family writes only whole layers. Source:
Puzzle's space of one choice a block (arXiv:2411.19146), without its replacement blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture, Selection
from minipuzzle.arch.narrow import kept, kept_sizes, resized
from minipuzzle.cost.files import Files
from minipuzzle.kinds import Block, Width
from minipuzzle.nas.couplings import couplings
from minipuzzle.nas.damage import bits_damage, drop_damage, hidden_damage, size_damage
from minipuzzle.nas.select import kept_hidden
from minipuzzle.nas.unbeaten import worthwhile
from minipuzzle.scores import Scores
from minipuzzle.settings import SearchSettings
from minipuzzle.settings.bits import AXIS, mean_tenths, number
from minipuzzle.space import Bounds, thinned, tried

OPTIONS = 512
"""Of a block, where the settings name no sizes: local search goes through them step by step."""
State = tuple[int | None, ...]
"""For each block the number of its option, 0 the whole block, or None where it is dropped."""
Option = tuple[int, ...]
"""A size for each searched axis of a block, in the order in which its kind declares them; then its
bits, where these are chosen too.
"""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """``options[i]`` of block i, ``damage[i]`` [options + 1] and ``costs[i]`` [options + 1, m]: the
    last entry drops the block.

    ``widths[i]`` are the axes of the block's options, ``couplings[i]`` has the coupling of each.
    ``limits`` [m] are what is left
    for blocks. ``hidden`` are the hidden channels that all states keep, None for all of them, and
    ``hidden_damage`` what that is predicted to do. ``formats``: their names by number; none
    where they are not chosen.
    """

    parent: Architecture
    scores: Scores
    options: tuple[tuple[Option, ...], ...]
    damage: tuple[NDArray[np.float64], ...]
    costs: tuple[NDArray[np.float64], ...]
    couplings: tuple[tuple[int, ...], ...]
    widths: tuple[tuple[Width, ...], ...]
    limits: NDArray[np.float64]
    names: tuple[str, ...]
    hidden: tuple[int, ...] | None = None
    hidden_damage: float = 0.0
    formats: Mapping[int, str] = field(default_factory=dict)

    def cost(self, state: State) -> NDArray[np.float64]:
        """[m] of a state's blocks."""
        total: NDArray[np.float64] = sum(
            (self.costs[i][self.column(i, n)] for i, n in enumerate(state)), self.limits * 0
        )
        return total

    def predicted(self, state: State) -> float:
        """The predicted damage of a state: the sum over its blocks, and that of the hidden size."""
        blocks = sum(self.damage[i][self.column(i, n)] for i, n in enumerate(state))
        return float(self.hidden_damage + blocks)

    def fits(self, state: State) -> bool:
        """Whether a state keeps every limit."""
        return bool((self.cost(state) <= self.limits).all())

    def column(self, block: int, option: int | None) -> int:
        """Where an option, or dropping the block, stands in ``damage`` and ``costs``."""
        return len(self.options[block]) if option is None else option

    @cached_property
    def candidate_sizes(self) -> tuple[tuple[list[int], ...], ...]:
        """For each block, and each of its searched axes, the sizes that it may have, descending;
        of formats by the bits of both.
        """
        found = []
        for options in self.options:
            each = [sorted(set(sizes), reverse=True) for sizes in zip(*options, strict=True)]
            if self.formats and each:
                each[-1].sort(key=mean_tenths, reverse=True)
            found.append(tuple(each))
        return tuple(found)

    @cached_property
    def numbers(self) -> tuple[dict[Option, int], ...]:
        """For each block the number of each of its options."""
        return tuple({option: n for n, option in enumerate(found)} for found in self.options)

    @cached_property
    def worthwhile(self) -> tuple[NDArray[np.int64], ...]:
        """For each block the columns that the solver gets (``minipuzzle.nas.unbeaten``)."""
        return worthwhile(self.options, self.damage, self.costs, self.couplings)

    def selection(self, state: State) -> Selection:
        """The blocks, heads and channels that a state keeps, by the scores."""
        found = [
            None if number is None else kept(block, self.scores.of(i), self._sizes(i, number))
            for i, (block, number) in enumerate(zip(self.parent.blocks, state, strict=True))
        ]
        names = None
        if self.formats:
            names = tuple(
                "" if number is None else self.formats[self._sizes(i, number)[AXIS]]
                for i, number in enumerate(state)
            )
        return Selection(blocks=tuple(found), hidden=self.hidden, formats=names)

    def sizes(self, state: State) -> dict[int, dict[str, int]]:
        """The sizes of each block that a state keeps, in the order of the blocks."""
        return {i: self._sizes(i, n) for i, n in enumerate(state) if n is not None}

    def state(self, selection: Selection) -> State | None:
        """The state of a selection; None where a block has sizes that are no option, or the hidden
        size is another.
        """
        if selection.hidden != self.hidden:
            return None
        found: list[int | None] = []
        for i, stays in enumerate(selection.blocks):
            if stays is None:
                found.append(None)
                continue
            sizes = kept_sizes(self.parent.blocks[i], stays)
            option = tuple(sizes[width.axis] for width in self.widths[i])
            option += (number(selection.formats[i]),) if selection.formats else ()
            searched = {key for width in self.widths[i] for key in width.keys}
            if option not in self.numbers[i] or set(stays) - searched:
                return None
            found.append(self.numbers[i][option])
        return tuple(found)

    def _sizes(self, block: int, option: int) -> dict[str, int]:
        axes = [width.axis for width in self.widths[block]] + [AXIS] * bool(self.formats)
        return dict(zip(axes, self.options[block][option], strict=True))


def make_choices(
    parent: Architecture,
    scores: Scores,
    space: Bounds,
    settings: SearchSettings,
    of: Callable[..., NDArray[np.float64]],
    left: NDArray[np.float64],
    names: tuple[str, ...],
    hidden: int | None = None,
    files: Files | None = None,
) -> Choices:
    """The choices of a parent at a hidden size (default: its own). ``of`` prices a block [m] at
    that size, at its bits where there are ``files``; ``left`` [m] is the budget without embedding,
    head and norm.
    """
    hidden = hidden or parent.hidden
    options, damage, costs, drops = [], [], [], drop_damage(scores)
    # of a kind that has to stay, the block that would be missed most: without it no budget is kept
    stay = {max(parent.indices(kind), key=drops.__getitem__) for kind in parent.rules.needs}
    known: dict[Block, tuple[list[dict[str, int]], NDArray[np.float64]]] = {}
    for i, block in enumerate(parent.blocks):
        if block not in known:
            bits = () if files is None else files.options(parent, block)[::-1]
            sizes = _options(parent.at_hidden(hidden), block, space, settings, files, bits)
            prices = [
                of(resized(block, one), *([one[AXIS]] if AXIS in one else [])) for one in sizes
            ]
            known[block] = sizes, np.array([*prices, left * 0])
        found, priced = known[block]
        options.append(tuple(tuple(one.values()) for one in found))
        damage.append(np.array([*_damages(parent, scores, i, found), drops[i]]))
        costs.append(np.array([*priced[:-1], 2 * left + 1]) if i in stay else priced)
    widths = tuple(tried(block, settings) for block in parent.blocks)
    return Choices(
        parent=parent,
        scores=scores,
        options=tuple(options),
        damage=tuple(damage),
        costs=tuple(costs),
        widths=widths,
        couplings=couplings(parent, widths, settings, files is not None),
        limits=left,
        names=names,
        hidden=kept_hidden(parent, scores, hidden),
        hidden_damage=hidden_damage(scores, hidden),
        formats={} if files is None else files.every,
    )


def whole(choices: Choices) -> State:
    """The state that keeps everything."""
    return tuple(0 for _ in choices.options)


def combinations(choices: Choices) -> list[State]:
    """Every state that keeps what is coupled together: for brute force in tests."""
    ranges = [[*range(len(options)), None] for options in choices.options]
    return [state for state in product(*ranges) if coupled(choices, state)]


def coupled(choices: Choices, state: State) -> bool:
    """Whether axes of one coupling have one size in all kept blocks, and no layer is torn."""
    seen: dict[int, int] = {}
    whole_layers = all(
        len({state[i] is None for i in layer}) == 1 for layer in choices.parent.layer_groups
    )
    return whole_layers and all(
        seen.setdefault(coupling, size) == size
        for i, number in enumerate(state)
        if number is not None
        for coupling, size in zip(choices.couplings[i], choices.options[i][number], strict=True)
    )


def _options(
    parent: Architecture,
    block: Block,
    space: Bounds,
    settings: SearchSettings,
    files: Files | None,
    bits: tuple[int, ...],
) -> list[dict[str, int]]:
    """Every combination of sizes of a block that its family's files can say, the whole block first;
    an axis that the space does not name stays whole. Of more than OPTIONS combinations there are
    fewer sizes of the axes that have most. With ``files`` each at all ``bits`` whose groups divide
    the columns.
    """
    axes = {width.axis: block.sizes[width.axis] for width in tried(block, settings)}
    every = {
        axis: tuple(n for n in space.sizes.get(axis, (size,)) if n <= size)
        for axis, size in axes.items()
    }
    most = OPTIONS // len(bits) if bits else OPTIONS
    sizes = [values[::-1] for values in thinned(every, settings.varied, most).values()]
    found = [dict(zip(axes, values, strict=True)) for values in product(*sizes)]
    found = [one for one in found if parent.rules.allows(resized(block, one))]
    if files is None:
        return found
    narrow = [replace(resized(block, one), hidden=parent.hidden) for one in found]
    return [
        {**one, AXIS: each}
        for one, made in zip(found, narrow, strict=True)
        for each in bits
        if files.divides(parent, made, each)
    ]


def _damages(
    parent: Architecture, scores: Scores, index: int, options: list[dict[str, int]]
) -> list[float]:
    """The predicted damage of each option of a block: the sum over its axes."""
    known = {
        (width.axis, size): size_damage(parent, scores, index, width, size)
        for width in parent.blocks[index].searched
        for size in {option[width.axis] for option in options if width.axis in option}
    }
    known |= {
        (AXIS, bits): bits_damage(scores, index, bits)
        for bits in {option[AXIS] for option in options if AXIS in option}
    }
    return [sum(known[item] for item in option.items()) for option in options]
