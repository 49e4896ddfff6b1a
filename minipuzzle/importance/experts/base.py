"""What an estimator of experts is: a file of this folder that holds ``EXPERT_ESTIMATOR``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from minipuzzle.importance.readings import Array, Nothing, Reading
from minipuzzle.importance.routed import Totals
from minipuzzle.kinds import Block
from minipuzzle.model.base import ResidualBlock


@dataclass(frozen=True, kw_only=True)
class ExpertEstimator:
    """One way to score the experts of a block. ``source`` is the paper or code it follows.

    ``scores`` has them from the sums of ``routed.Totals``; ``drawn`` (count, seed) draws them in
    place of reading anything. Where both are None each expert is removed in turn: no reading has
    the scores, the streams' ends do.
    """

    source: str
    scores: Callable[[Mapping[str, Array]], Array] | None = None
    drawn: Callable[[int, int], Array] | None = None

    @property
    def measured(self) -> bool:
        """Whether experts are removed, one after the other."""
        return self.scores is None and self.drawn is None

    def begin(
        self, block: Block, module: ResidualBlock, name: str, seed: int
    ) -> tuple[str, Reading]:
        """(the point it reads for the scores ``name`` of a block, "" for none; the reading that
        collects there).
        """
        read, (count,) = block.reads[name], block.score_shapes[name]
        if self.drawn is not None:
            drawn = self.drawn
            return "", Nothing(lambda: drawn(count, seed))
        assert self.scores is not None, "experts that are removed are read nowhere"
        weight = module.get_parameter(read.weight) if read.weight else None
        return read.point, Totals(count, weight, self.scores)
