"""Several selections of one model in one pass: those that agree on their first blocks share the
stream up to there.

    branches = model.branches(selections)
    model.hidden_states_of_each(branches, tokens, take)      take(number, hidden) for each of them

The selections are a tree over the blocks, walked depth first. Where it forks, the branch with the
most selections goes last and takes the stream along, so at most ``forks_held`` streams wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minipuzzle.arch import Architecture, Selection
from minipuzzle.model.base import ResidualBlock
from minipuzzle.model.masks import index_mask

Values = list[tuple[Any, str, Any]]
"""(module, attribute, mask) to set meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """What ``members``, selections by number, share: ``steps`` (block, its masks), then the
    ``forks``, the one with the fewest members first; none at the end of the model.
    """

    members: tuple[int, ...]
    steps: tuple[tuple[int, Values], ...]
    forks: tuple[Branch, ...]

    @property
    def count(self) -> int:
        """How often a block runs in it."""
        return len(self.steps) + sum(fork.count for fork in self.forks)


class Branches:
    """The ``selections`` of a model, whose ``blocks`` these are, as branches, by ``hidden``, the
    mask of their hidden channels.

    Raises: UserError for a selection that the model's architecture does not allow.
    """

    def __init__(
        self,
        architecture: Architecture,
        blocks: Sequence[ResidualBlock],
        selections: Sequence[Selection],
    ) -> None:
        for selection in selections:
            selection.student(architecture)
        self.size = len(selections)
        self.trees: list[tuple[Tensor | None, Branch]] = []
        device, size = blocks[0].norm.weight.device, architecture.hidden
        for group in _grouped(range(self.size), [s.hidden for s in selections]):
            mask = index_mask(size, selections[group[0]].hidden, device)
            self.trees.append((mask, _branch(blocks, selections, group, 0)))

    @property
    def count(self) -> int:
        """How often a block runs for all of them; one by one it is the sum of their blocks."""
        return sum(branch.count for _, branch in self.trees)


def forks_held(selections: int) -> int:
    """How many streams may wait at forks, beside the one that runs: a branch that does not go last
    has at most half of the selections.
    """
    return max(0, selections.bit_length() - 1)


def _branch(
    blocks: Sequence[ResidualBlock],
    selections: Sequence[Selection],
    members: tuple[int, ...],
    start: int,
) -> Branch:
    steps: list[tuple[int, Values]] = []
    for index in range(start, len(blocks)):
        parts = _grouped(members, [_said(selections[m], index) for m in members])
        if len(parts) > 1:
            forks = [_branch(blocks, selections, part, index) for part in sorted(parts, key=len)]
            return Branch(members=members, steps=tuple(steps), forks=tuple(forks))
        if selections[members[0]].blocks[index] is not None:
            axes = selections[members[0]].axes(index)
            steps.append((index, [*blocks[index].masks(axes)]))
    return Branch(members=members, steps=tuple(steps), forks=())


def _said(selection: Selection, index: int) -> tuple[object, ...] | None:
    """What a selection keeps of a block, to compare; hidden channels apart."""
    kept = selection.blocks[index]
    return None if kept is None else tuple(sorted(kept.items()))


def _grouped(members: Sequence[int], keys: Sequence[object]) -> list[tuple[int, ...]]:
    """The members with equal keys together, in their order."""
    found: dict[object, list[int]] = {}
    for member, key in zip(members, keys, strict=True):
        found.setdefault(key, []).append(member)
    return [tuple(group) for group in found.values()]
