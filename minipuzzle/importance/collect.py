"""Scores of one block from hooks on its module, while its activations pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from minipuzzle.importance.estimators import check_streamed, find
from minipuzzle.importance.readings import Array, MeanAbsolute, Reading
from minipuzzle.importance.widths import width_of
from minipuzzle.kinds import Block
from minipuzzle.model.base import ResidualBlock


class _Hooks:
    """Hooks that are taken off where the context ends."""

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


class Collector(_Hooks):
    """Hooks on one block's module while it is entered; every batch that passes meanwhile counts.

    ``sums`` is float64 and additive over batches, and may be replaced entry by entry (resumed, or
    summed over processes) before ``scores``; "magnitude" and "random" have none. ``seed`` is used
    by "random" alone: give each block its own, or blocks of one shape get the same scores. Raises:
    UserError as ``check_streamed``.
    """

    def __init__(self, block: Block, module: ResidualBlock, estimator: str, seed: int = 0) -> None:
        check_streamed(estimator)
        super().__init__()
        self.block, self.module = block, module
        self.width = width_of(block)
        self.point, self.reading = "", None
        self.sums: dict[str, Array] = {}
        if self.width is not None:
            self.point, self.reading = find(estimator).begin(block, module, seed)
            self.sums = self.reading.sums

    def __enter__(self) -> Collector:
        if self.point and self.reading is not None:
            self.handles.append(self.module.watch(self.point, self.reading.add))
        return self

    def scores(self) -> dict[str, Array]:
        """{name of the scores: array} as the block's width declares, such as {"head_channels":
        [heads, head_dim]}; nothing for a kind that never gets narrower.
        """
        if self.width is None or self.reading is None:
            return {}
        return {self.width.score: self.reading.scores().reshape(self.width.score_shape(self.block))}


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
        self.handles.append(self.module.watch("branch_input", self.reading.add))
        return self

    def scores(self) -> dict[str, Array]:
        """{"hidden": [hidden]}: this block's part of the model's sum."""
        return {"hidden": self.reading.scores()}


def footprint_hooks(block: Block, estimator: str = "minitron") -> Callable[[ResidualBlock], None]:
    """Puts hooks on a module of "meta" tensors that allocate what the collectors do and keep
    nothing.
    """

    def discard(reading: Reading, x: Tensor) -> None:
        reading.reduce(x)

    def put(module: ResidualBlock) -> None:
        module.watch("branch_input", partial(discard, MeanAbsolute(block.hidden)))
        if width_of(block) is not None:
            point, reading = find(estimator).begin(block, module, 0)
            if point:
                module.watch(point, partial(discard, reading))

    return put
