"""Scores of one block from hooks on its module, while its activations pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from minipuzzle.importance.estimators import check_streamed, find
from minipuzzle.importance.experts import find as find_experts
from minipuzzle.importance.readings import Array, MeanAbsolute, Reading
from minipuzzle.kinds import Block
from minipuzzle.model.base import ResidualBlock


class _Hooks:
    """Hooks that are taken off where the context ends. What batches add stays on their device until
    then: a copy at each would make a GPU wait for its next kernel.
    """

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []
        self._added: list[tuple[Reading, dict[str, Tensor]]] = []

    def _read(self, module: ResidualBlock, point: str, reading: Reading) -> None:
        added: dict[str, Tensor] = {}

        @torch.no_grad()
        def add(x: Any) -> None:
            for name, value in reading.reduce(x).items():
                added[name] = added[name] + value if name in added else value

        self.handles.append(module.watch(point, add))
        self._added.append((reading, added))

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        for reading, added in self._added:
            for name, value in added.items():
                reading.sums[name] += value.cpu().numpy()
        self._added.clear()


class Sums(MutableMapping[str, Array]):
    """The sums of several readings as one mapping, under "<name of the scores>.<sum>"."""

    def __init__(self, readings: dict[str, Reading]) -> None:
        self.readings = readings

    def _at(self, key: str) -> tuple[dict[str, Array], str]:
        name, _, own = key.partition(".")
        return self.readings[name].sums, own

    def __getitem__(self, key: str) -> Array:
        sums, own = self._at(key)
        return sums[own]

    def __setitem__(self, key: str, value: Array) -> None:
        sums, own = self._at(key)
        sums[own] = value

    def __delitem__(self, key: str) -> None:
        raise TypeError("a reading keeps all of its sums")

    def __iter__(self) -> Iterator[str]:
        return (f"{name}.{own}" for name, r in self.readings.items() for own in r.sums)

    def __len__(self) -> int:
        return sum(len(reading.sums) for reading in self.readings.values())


class Collector(_Hooks):
    """Hooks on one block's module while it is entered; every batch that passes meanwhile counts,
    once it is left.

    ``sums`` are float64 and additive over batches, and may be replaced entry by entry (resumed, or
    summed over processes) before ``scores``; "magnitude" and "random" have none. ``seed`` is used
    by "random" alone: give each block its own, or blocks of one shape get the same scores.
    ``experts`` is the estimator of experts (``minipuzzle.importance.experts``). Raises: UserError
    as ``check_streamed``.
    """

    def __init__(
        self,
        block: Block,
        module: ResidualBlock,
        estimator: str,
        seed: int = 0,
        experts: str = "reap",
    ) -> None:
        check_streamed(estimator)
        super().__init__()
        self.block, self.module = block, module
        self.points, self.readings = begin(block, module, estimator, experts, seed)
        self.sums = Sums(self.readings)

    def __enter__(self) -> Collector:
        for name, point in self.points.items():
            self._read(self.module, point, self.readings[name])
        return self

    def scores(self) -> dict[str, Array]:
        """{name of the scores: array} as the block's widths declare, such as {"head_channels":
        [heads, head_dim]}; nothing for a kind that never gets narrower.
        """
        shapes = self.block.score_shapes
        return {name: r.scores().reshape(shapes[name]) for name, r in self.readings.items()}


class HiddenCollector(_Hooks):
    """Hidden channels as one block's mixer reads them: mean |x| over the sequence and L2 over the
    batch, x = LN(h), or the stream itself where the norm comes after. Blocks' scores add up.

    Source: arXiv:2407.14679, F_emb; the sum over blocks of the L2 norms is what NVIDIA's Model
    Optimizer does.
    """

    def __init__(self, block: Block, module: ResidualBlock) -> None:
        self.block, self.module = block, module
        self.reading = MeanAbsolute(block.hidden)
        self.sums: dict[str, Array] = self.reading.sums
        super().__init__()

    def __enter__(self) -> HiddenCollector:
        self._read(self.module, "branch_input", self.reading)
        return self

    def scores(self) -> dict[str, Array]:
        """{"hidden": [hidden]}: this block's part of the model's sum."""
        return {"hidden": self.reading.scores()}


def begin(
    block: Block, module: ResidualBlock, estimator: str, experts: str, seed: int
) -> tuple[dict[str, str], dict[str, Reading]]:
    """(the points that are read, the readings), by the names of the block's scores; no point where
    no activation is read, no reading where indices are removed one by one.
    """
    points, readings = {}, {}
    of_channels, of_experts = find(estimator), find_experts(experts)
    for name in block.score_shapes:
        routed = block.reads[name].way == "experts"
        if routed and of_experts.measured:
            continue
        chosen = of_experts if routed else of_channels
        point, readings[name] = chosen.begin(block, module, name, seed)
        if point:
            points[name] = point
    return points, readings


def footprint_hooks(
    block: Block, estimator: str = "minitron", experts: str = "reap"
) -> Callable[[ResidualBlock], None]:
    """Puts hooks on a module of "meta" tensors that allocate what the collectors do and keep
    nothing.
    """

    def discard(reading: Reading, x: Any) -> None:
        reading.reduce(x)

    def put(module: ResidualBlock) -> None:
        module.watch("branch_input", partial(discard, MeanAbsolute(block.hidden)))
        points, readings = begin(block, module, estimator, experts, 0)
        for name, point in points.items():
            module.watch(point, partial(discard, readings[name]))

    return put
