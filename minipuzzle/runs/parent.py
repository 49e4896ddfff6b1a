"""The parent under masks, measured on a text: whole on one device or block by block, or in shards
over all processes of a torchrun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from minipuzzle.arch import Selection
from minipuzzle.data import TokenBlocks
from minipuzzle.metrics import Answers, Metrics, answers, measure_each, predictions
from minipuzzle.model import HybridLM, StreamedLM
from minipuzzle.model.rounded import Rounding
from minipuzzle.nas.rank import Quality
from minipuzzle.questions.choosing import Asked, by_kind, counted
from minipuzzle.ranks import Ranks
from minipuzzle.runs.job import Job

BATCH = 8
"""Blocks of text at once."""


class MaskedParent:
    """Measures selections on ``blocks``; loaded for the first one.

    Over several processes only the first decides what is measured, and says so to the others
    (``serve``), because a solver that is stopped by the clock may decide differently elsewhere.
    Each computes on its share of the blocks, or on all of them where they cannot be shared equally.
    A selection with formats is measured with its weights rounded to them. With ``rows`` the parent
    is not loaded but read block by block (``StreamedLM``).
    """

    def __init__(
        self, job: Job, blocks: TokenBlocks, group: Ranks, rows: int | None = None
    ) -> None:
        self.job, self.group, self.rows = job, group, rows
        self.blocks = blocks.share(group.rank, group.world)
        self.names = [domain.name for domain in blocks.domains]
        self._loaded: tuple[HybridLM | StreamedLM, Answers] | None = None
        self._asked: Asked | None = None

    def __call__(self, selections: Sequence[Selection]) -> list[Quality]:
        """What the parent does under each selection's masks, over all processes; for the first one
        to call. They share what they agree on, so those should lie together that do.
        """
        request = self.group.said_by_first((list(selections), False))
        return self._answer(*request)  # type: ignore[return-value]

    def tasks(self, selection: Selection) -> dict[str, float]:
        """How it answers the questions under a selection's masks, by kind (``choosing.by_kind``);
        for the first one to call.
        """
        return self._answer(*self.group.said_by_first(([selection], True)))[0]  # type: ignore[return-value]

    def serve(self) -> None:
        """Compute what the first process measures, until it stops."""
        while (request := self.group.said_by_first(None)) is not None:
            self._answer(*request)

    def stop(self) -> None:
        """End ``serve`` in the others."""
        self.group.said_by_first(None)

    @cached_property
    def rounding(self) -> Rounding:
        """The parent's weights in formats."""
        return Rounding(self.job.parent)

    def _answer(
        self, selections: Sequence[Selection], by_tasks: bool
    ) -> list[Quality] | list[dict[str, float]]:
        if self._loaded is None:
            parent: HybridLM | StreamedLM = (
                self.job.frozen_parent(self.group)
                if self.rows is None
                else StreamedLM(self.job.parent, device=self.job.device, rows=self.rows)
            )
            self._loaded = parent, answers(parent, self.blocks, BATCH)
        model, teacher = self._loaded
        if by_tasks:
            assert isinstance(model, HybridLM)  # others are refused before
            return [self._kinds(model, selection) for selection in selections]
        each = self._qualities(model, selections, teacher)
        return [self._together(found) for found in each]

    def _qualities(
        self, model: HybridLM | StreamedLM, selections: Sequence[Selection], teacher: Answers
    ) -> list[Quality]:
        whole = all(selection.formats is None for selection in selections)
        if whole or isinstance(model, StreamedLM):  # which rounds a block at a time
            return masked_qualities(model, selections, self.blocks, teacher)
        found: list[Quality] = []
        for selection in selections:  # one after the other: each has weights of its own
            with self.rounding.applied(model, selection):
                found += masked_qualities(model, [selection], self.blocks, teacher)
        return found

    def _kinds(self, model: HybridLM, selection: Selection) -> dict[str, float]:
        if self._asked is None:
            self._asked = counted(model, self.job.questions())
        asked = self._asked
        with model.masked(selection), self.rounding.applied(model, selection):
            return by_kind(model, asked)

    def _together(self, found: Quality) -> Quality:
        """Over all processes."""
        mine = np.array(found[:4])
        if self.blocks.spans:  # means over as many predictions as each process happens to have
            share = predictions(self.blocks)
            mine *= share * self.group.world / self.group.sum(np.array([share]))[0]
        accuracy, agreement, loss, kl = (self.group.sum(mine) / self.group.world).tolist()
        return Quality(accuracy, agreement, loss, kl, self._domains(found.domains))

    def _domains(self, found: Mapping[str, Quality]) -> dict[str, Quality]:
        """Each domain over all processes: means over as many predictions as each has of it."""
        if not self.names:
            return {}
        sums = np.zeros((len(self.names), 5))
        for name, part in self.blocks.by_domain():
            count = predictions(part)
            sums[self.names.index(name)] = [count, *(count * np.array(found[name][:4]))]
        sums = self.group.sum(sums)
        return {
            name: Quality(*(row[1:] / row[0]).tolist())
            for name, row in zip(self.names, sums, strict=True)
        }


def masked_qualities(
    model: HybridLM | StreamedLM,
    selections: Sequence[Selection],
    blocks: TokenBlocks,
    teacher: Answers,
    *,
    batch: int = BATCH,
) -> list[Quality]:
    """What a parent does on ``blocks`` under each selection's masks, beside its own answers whole,
    those of the ``teacher``.
    """
    return [
        _quality(m) for m in measure_each(model, selections, blocks, batch=batch, teacher=teacher)
    ]


def _quality(m: Metrics) -> Quality:
    domains = {name: _quality(part) for name, part in m.domains.items()}
    return Quality(m.next_token_accuracy, m.agreement or 0.0, m.loss, m.kl or 0.0, domains)
