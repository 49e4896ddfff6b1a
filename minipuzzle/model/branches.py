"""Several selections of one model in one pass: those that agree on their first blocks share the
stream up to there.

    branches = model.branches(selections)
    model.hidden_states_of_texts(branches, texts, take)      take(text, number, hidden)

The selections are a tree over the blocks, walked depth first. Where it forks, the branch with the
most selections goes last and takes the stream along, so at most ``forks_held`` streams wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from minipuzzle.arch import Architecture, Selection
from minipuzzle.model.masks import index_mask

Steps = tuple[tuple[int, Any], ...]
"""Blocks by number, each with what its model has to know of what is kept of it."""
Take = Callable[[int, int, Tensor], None]
"""Given the number of a text, that of a selection, and its hidden states before the head."""


class Text(Protocol):
    """``tokens`` [b, s] int64 and, where some do not see each other, ``documents`` [b, s]."""

    @property
    def tokens(self) -> Tensor: ...

    @property
    def documents(self) -> Tensor | None: ...


@dataclass(frozen=True, kw_only=True)
class Branch:
    """What ``members``, selections by number, share: ``steps``, then the ``forks``, the one with
    the fewest members first; none at the end of the model.
    """

    members: tuple[int, ...]
    steps: Steps
    forks: tuple[Branch, ...]

    @property
    def count(self) -> int:
        """How often a block runs in it."""
        return len(self.steps) + sum(fork.count for fork in self.forks)

    @property
    def leaves(self) -> int:
        """How many streams it ends in."""
        return sum(fork.leaves for fork in self.forks) or 1


class Branches:
    """The ``selections`` of an architecture as branches, by ``hidden``, the mask of their hidden
    channels on ``device``; ``step`` says what a model has to know of a selection at a block.

    Raises: UserError for a selection that the architecture does not allow.
    """

    def __init__(
        self,
        architecture: Architecture,
        selections: Sequence[Selection],
        device: torch.device,
        step: Callable[[Selection, int], Any],
    ) -> None:
        for selection in selections:
            selection.student(architecture)
        self.size = len(selections)
        self.trees: list[tuple[Tensor | None, Branch]] = []
        for group in _grouped(range(self.size), [s.hidden for s in selections]):
            mask = index_mask(architecture.hidden, selections[group[0]].hidden, device)
            self.trees.append((mask, _branch(selections, step, group, 0)))

    @property
    def count(self) -> int:
        """How often a block runs for all of them; one by one it is the sum of their blocks."""
        return sum(branch.count for _, branch in self.trees)

    @property
    def leaves(self) -> int:
        """How many streams they end in: selections that differ."""
        return sum(branch.leaves for _, branch in self.trees)


def forks_held(selections: int) -> int:
    """How many streams may wait at forks, beside the one that runs: a branch that does not go last
    has at most half of the selections.
    """
    return max(0, selections.bit_length() - 1)


def _branch(
    selections: Sequence[Selection],
    step: Callable[[Selection, int], Any],
    members: tuple[int, ...],
    start: int,
) -> Branch:
    steps: list[tuple[int, Any]] = []
    first = selections[members[0]]
    for index in range(start, len(first.blocks)):
        parts = _grouped(members, [_said(selections[m], index) for m in members])
        if len(parts) > 1:
            forks = [_branch(selections, step, part, index) for part in sorted(parts, key=len)]
            return Branch(members=members, steps=tuple(steps), forks=tuple(forks))
        if first.blocks[index] is not None:
            steps.append((index, step(first, index)))
    return Branch(members=members, steps=tuple(steps), forks=())


def _said(selection: Selection, index: int) -> tuple[object, ...] | None:
    """What a selection keeps of a block and in which format, to compare; hidden channels apart."""
    kept = selection.blocks[index]
    if kept is None:
        return None
    return (selection.formats and selection.formats[index], *sorted(kept.items()))


def _grouped(members: Sequence[int], keys: Sequence[object]) -> list[tuple[int, ...]]:
    """The members with equal keys together, in their order."""
    found: dict[object, list[int]] = {}
    for member, key in zip(members, keys, strict=True):
        found.setdefault(key, []).append(member)
    return [tuple(group) for group in found.values()]
