"""What an estimator is: a file of this folder that holds ``ESTIMATOR``, one of these.

It scores the indices that a block's width declares, from what passes the block's module. The file's
name is the estimator's, the first line of its docstring what ``score --help`` says of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor

from minipuzzle.errors import UserError
from minipuzzle.importance.products import RootProducts
from minipuzzle.importance.readings import Array, Nothing, Reading
from minipuzzle.importance.routed import Choices, OfExperts
from minipuzzle.importance.widths import score_count
from minipuzzle.kinds import Block
from minipuzzle.model.base import ResidualBlock


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """One way to score what a block may lose. ``source`` is the paper or code it follows."""

    source: str

    def begin(
        self, block: Block, module: ResidualBlock, name: str, seed: int
    ) -> tuple[str, Reading]:
        """(the point it reads for the scores ``name`` of a block, "" for none; the reading that
        collects there).
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Activations(Estimator):
    """Reads, of what the output projection reads, the first of ``points`` that the block's kind
    has. ``reading`` is given the matrix [hidden, c] that reads what is scored and the number of
    scores, which divides c: of heads of several channels each there are fewer. What no matrix reads
    has one formula, whatever the estimator (``Read.way``).
    """

    points: tuple[str, ...] = ("channels",)
    reading: Callable[[Tensor, int], Reading]

    def begin(
        self, block: Block, module: ResidualBlock, name: str, seed: int
    ) -> tuple[str, Reading]:
        """The point and a new reading of it."""
        read, count = block.reads[name], score_count(block, name)
        weight = module.get_parameter(read.weight) if read.weight else None
        if read.way == "products":
            return read.point, RootProducts(count)
        if read.way == "choices":
            return read.point, Choices(count, weight)
        assert weight is not None, f"{name} has no matrix"
        if read.way == "columns of experts":
            own = weight.shape[-1]
            return read.point, OfExperts([self.reading(matrix, own) for matrix in weight.unbind()])
        point = read.point
        if point == "channels":
            known = ("branch_input", "channels", *block.points)
            point = next(name for name in self.points if name in known)
        return point, self.reading(weight, count)


@dataclass(frozen=True, kw_only=True)
class Weights(Estimator):
    """Reads no activation: ``scores(block, module, name, seed)`` [number of scores]."""

    scores: Callable[[Block, ResidualBlock, str, int], Array]

    def begin(
        self, block: Block, module: ResidualBlock, name: str, seed: int
    ) -> tuple[str, Reading]:
        """No point."""
        return "", Nothing(lambda: self.scores(block, module, name, seed))


@dataclass(frozen=True, kw_only=True)
class WholeModel(Estimator):
    """Cannot be computed block by block. ``needs`` says why, ``call`` what to call instead."""

    needs: str
    call: str

    def refuse(self, name: str, streamed: tuple[str, ...]) -> NoReturn:
        """Raises: UserError that says why the estimator ``name`` is not one of ``streamed``."""
        raise UserError(
            f"The estimator {name!r} needs {self.needs}.",
            got=name,
            allowed=", ".join(streamed),
            next=f"Call {self.call} on a loaded model, or choose another score.estimator.",
        )
