"""What is done while a block is in memory: streams pass it, and those begin that change it."""

from __future__ import annotations

from minipuzzle.arch import Architecture
from minipuzzle.importance.bits import Rounded
from minipuzzle.importance.collect import Collector, HiddenCollector
from minipuzzle.importance.curves import Variant, kept, variants
from minipuzzle.importance.found import Found
from minipuzzle.importance.samples import Samples
from minipuzzle.importance.streams import Streams
from minipuzzle.memory.passes import Pass
from minipuzzle.model.base import ResidualBlock
from minipuzzle.ranks import Ranks
from minipuzzle.settings import ScoreSettings
from minipuzzle.settings.bits import BITS


class Visits:
    """The blocks of one scoring; what they are found to be worth goes to ``found``."""

    def __init__(
        self,
        architecture: Architecture,
        settings: ScoreSettings,
        samples: Samples,
        rounded: Rounded,
        found: Found,
        group: Ranks,
    ) -> None:
        self.architecture, self.settings, self.samples = architecture, settings, samples
        self.rounded, self.found, self.group = rounded, found, group

    def visit(
        self, streams: Streams, index: int, module: ResidualBlock, now: Pass, *, whole: bool
    ) -> None:
        """One block: every variant begun before it, the parent (in the ``whole`` round, where no
        block is removed, with collectors), then its own.
        """
        begun, shared = streams.alive, streams.shared
        if not now.shared:
            self._parent(streams, index, module, now)
            return
        if any(variant.layer for variant in variants(self.architecture, index, curves=False)):
            first = streams.variants.index(Variant(block=index - 1))
            layer = streams.begin(Variant(block=index, layer=True))
            streams.hidden[layer : layer + shared] = streams.variant(first)
        removal = streams.begin(Variant(block=index))
        streams.hidden[removal : removal + shared] = streams.hidden[:shared]
        if whole:
            self._parent(streams, index, module, now)
        else:
            streams.run(module, 0, streams.samples)
        streams.run(module, streams.samples, begun)
        if not whole:
            return
        widths = self.found.widths(index)
        for variant in [v for v in self.variants(index) if v.axis is not None]:
            chosen = {} if variant.axis in BITS else kept(module.block, variant, widths)
            if chosen is None:
                continue
            with self.rounded.applied(module, variant) if not chosen else module.masked(chosen):
                streams.run(module, removal, removal + shared, target=streams.begin(variant))

    def _parent(self, streams: Streams, index: int, module: ResidualBlock, now: Pass) -> None:
        """The parent's samples through a block, under its collectors where they have not passed
        before; once all have, the block's width scores over all processes.
        """
        if not now.watched:
            streams.run(module, 0, streams.samples, again=True)
            return
        block = self.architecture.blocks[index]
        seed = self.settings.seed + index
        watched = max(0, min(streams.samples, self.samples.watched - now.start))
        with (
            Collector(
                block, module, self.settings.estimator, seed, self.settings.experts
            ) as collector,
            HiddenCollector(block, module) as hidden,
        ):
            streams.run(module, 0, watched)
        streams.run(module, watched, streams.samples)
        for sums in (collector.sums, hidden.sums):
            for name, value in sums.items():
                total = self.group.sum(value)
                sums[name] = self.found.total(f"sums of {index}: {name}", total, last=now.ranked)
        if now.ranked:
            self.found.add_widths(index, collector.scores(), hidden.scores()["hidden"])

    def variants(self, index: int) -> list[Variant]:
        """Those of the whole round that begin at a block."""
        curves, experts = self.settings.curves, self.settings.experts
        return variants(self.architecture, index, curves, experts, self.rounded.formats[index])
