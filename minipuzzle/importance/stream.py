"""Streamed scoring: one block in memory at a time, all samples through block i before block i + 1
is read.

Removing or narrowing block j changes nothing before j, so a variant begins as the parent's stream
at j and flows beside it from there: N removals cost N(N+1)/2 block-forwards a sample, the parent's
N included, and one read of the weights; the naive loop costs N(N-1) + N and N reads. score(j) =
error between the ends of both streams (``metrics``), single-shot as in arXiv:2411.19146 and
arXiv:2504.03624; ``iterative`` removes the least damaging block and scores again (Nemotron Nano 2,
arXiv:2508.14444; Nemotron Elastic, arXiv:2511.16664), always against the whole parent. Where blocks
stay or go as layers of two, the removal of both is one more variant, which begins at the second as
the removal of the first.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks
from minipuzzle.identity import fingerprint
from minipuzzle.importance.amount import check_settings
from minipuzzle.importance.bits import Rounded
from minipuzzle.importance.collect import Collector, HiddenCollector
from minipuzzle.importance.curves import Variant, kept, variants
from minipuzzle.importance.ends import variant_errors
from minipuzzle.importance.found import Found
from minipuzzle.importance.metrics import find
from minipuzzle.importance.peak import ScoringPeak, compute_dtype, plan_peak
from minipuzzle.importance.state import SavedTensors, State
from minipuzzle.importance.streams import Streams
from minipuzzle.interrupt import Interrupt, interrupt
from minipuzzle.model.base import ResidualBlock
from minipuzzle.model.prefetch import BlockReader, embed_into
from minipuzzle.progress import SILENT, Counting, Progress
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings
from minipuzzle.settings.bits import BITS

log = logging.getLogger(__name__)

Array = NDArray[np.float64]


def score(
    checkpoint: Checkpoint,
    blocks: TokenBlocks,
    settings: ScoreSettings,
    *,
    device: torch.device,
    partial: Path,
    progress: Progress = SILENT,
) -> Scores:
    """Score every block, every width and the damage curves of a checkpoint on calibration text.

    Samples are blocks of text chosen by seed; fewer than requested are used when the text has
    fewer, and ``meta`` says how many. ``partial`` is a folder for what a killed run goes on from;
    ``progress`` is told of samples that passed a block. Under torchrun the samples are split over
    the processes, and every one returns the same scores. Raises: UserError for settings that cannot
    run, and where it would not fit into memory (before anything is read).
    """
    check_settings(settings, checkpoint.architecture)
    with ranks(device) as group, interrupt(group) as stop, torch.no_grad():
        run = _Run(checkpoint, blocks, settings, group, partial, stop, progress)
        log.info(str(run.peak))
        run.peak.check()
        return run.scores()


class _Run:
    """One process's part of a scoring: rounds over the blocks, the first one whole, later ones with
    blocks removed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        blocks: TokenBlocks,
        settings: ScoreSettings,
        group: Ranks,
        partial: Path,
        stop: Interrupt,
        progress: Progress,
    ) -> None:
        self.checkpoint, self.settings, self.group = checkpoint, settings, group
        self.progress = Counting(progress)
        self.architecture = checkpoint.architecture
        self.step = len(self.architecture.layer_groups[0])
        self.width_samples = min(settings.samples, len(blocks))
        self.block_samples = min(settings.block_samples, len(blocks))
        chosen = blocks.take(max(self.width_samples, self.block_samples), seed=settings.seed)
        self.tokens = chosen.tokens[group.rank :: group.world]
        marks = chosen.predicting if blocks.spans else None
        self.counted = None if marks is None else torch.from_numpy(marks[group.rank :: group.world])
        self.shared, self.watched = group.share(self.block_samples), group.share(self.width_samples)
        self.reader = BlockReader(
            checkpoint, device=group.device, dtype=compute_dtype(checkpoint, group.device)[0]
        )
        self.peak: ScoringPeak = plan_peak(
            checkpoint,
            settings,
            samples=len(self.tokens),
            shared=self.shared,
            length=blocks.block_length,
            device=group.device,
            fast=self.reader.kernels.name == "mamba-ssm",
        )
        self.rounded = Rounded(checkpoint, settings)
        self.data = {"block_length": blocks.block_length, "data": blocks.fingerprint}
        identity = fingerprint(
            checkpoint.fingerprint,
            settings.identity(),
            blocks.fingerprint,
            group.world,
            str(group.device),
            str(self.peak.dtype),
        )
        self.state = State(partial, identity, group, stop)
        self.found = Found(self.architecture)
        self.removed: list[int] = []
        self.reference: Tensor | None = None

    def scores(self) -> Scores:
        """Run what is left to do, and assemble the result."""
        saved = self.state.load()
        done = 0
        if saved is not None:
            done, about, tensors = saved
            self.removed = about["removed"]
            self.found.arrays = {
                name.removeprefix("found."): tensors.array(name) for name in about["arrays"]
            }
        for number in range(len(self.removed) // self.step, max(1, self.settings.iterative)):
            streams = self._streams(number)
            done_here = 0
            if saved is None:
                embed_into(
                    streams.hidden[: streams.samples],
                    self.checkpoint,
                    self.tokens[: streams.samples],
                )
            else:
                done_here = self._restore(streams, saved[1], saved[2])
                saved = None
            errors = self._round(streams, done, done_here)
            done += len(self._left()) - done_here
            if number == 0:
                self.found.add_errors(streams.variants, errors)
            if self.settings.iterative:
                self.removed += self.found.least_removal(streams.variants, errors)
            del streams  # before the next round's are made
        return self.found.scores(self._meta())

    def _round(self, streams: Streams, done: int, done_here: int) -> Array:
        """All blocks that are left, from the ``done_here``-th on; the errors of the streams'
        variants.
        """
        left = self._left()
        for place, (index, module) in enumerate(self.reader.blocks(left[done_here:]), start=1):
            self._visit(streams, index, module, whole=not self.removed)
            streams.settle()
            if self.state.due():
                self._save(streams, done + place, done_here + place)
        if self.reference is None and self.settings.iterative > 1:
            self.reference = streams.hidden[: self.shared].clone()
        tokens = torch.from_numpy(self.tokens[: self.shared].astype(np.int64))
        reference = streams.hidden[: self.shared] if self.reference is None else self.reference
        return variant_errors(
            streams,
            reference,
            self.reader.final_norm(),
            self._head(),
            tokens,
            self.settings.metric,
            self.group,
            self.counted,
        )

    def _visit(self, streams: Streams, index: int, module: ResidualBlock, whole: bool) -> None:
        """One block: every variant begun before it, the parent (in the whole round with
        collectors), then its own.
        """
        begun = streams.alive
        if any(variant.layer for variant in variants(self.architecture, index, curves=False)):
            first = streams.variants.index(Variant(block=index - 1))
            layer = streams.begin(Variant(block=index, layer=True))
            streams.hidden[layer : layer + self.shared] = streams.variant(first)
        removal = streams.begin(Variant(block=index))
        streams.hidden[removal : removal + self.shared] = streams.hidden[: self.shared]
        widths = self._parent(streams, index, module) if whole else {}
        if not whole:
            streams.run(module, 0, streams.samples)
        streams.run(module, streams.samples, begun)
        if not whole:
            return
        for variant in [v for v in self._variants(index) if v.axis is not None]:
            chosen = {} if variant.axis in BITS else kept(module.block, variant, widths)
            if chosen is None:
                continue
            with self.rounded.applied(module, variant) if not chosen else module.masked(chosen):
                streams.run(module, removal, removal + self.shared, target=streams.begin(variant))

    def _parent(self, streams: Streams, index: int, module: ResidualBlock) -> dict[str, Array]:
        """The parent's samples through a block under its collectors; the block's width scores over
        all processes.
        """
        block = self.architecture.blocks[index]
        seed = self.settings.seed + index
        with (
            Collector(
                block, module, self.settings.estimator, seed, self.settings.experts
            ) as collector,
            HiddenCollector(block, module) as hidden,
        ):
            streams.run(module, 0, self.watched)
        streams.run(module, self.watched, streams.samples)
        for sums in (collector.sums, hidden.sums):
            for name, value in sums.items():
                sums[name] = self.group.sum(value)
        widths = collector.scores()
        self.found.add_widths(index, widths, hidden.scores()["hidden"])
        return widths

    def _streams(self, number: int) -> Streams:
        whole = number == 0
        capacity = sum(
            len(self._variants(i) if whole else variants(self.architecture, i, curves=False))
            for i in self._left()
        )
        samples = len(self.tokens) if whole else self.shared
        return Streams(
            samples=samples,
            shared=self.shared,
            length=self.tokens.shape[1],
            width=self.architecture.hidden,
            capacity=capacity,
            batch=self.settings.batch,
            dtype=self.peak.dtype,
            device=self.group.device,
            home=self.peak.home,
            progress=self.progress,
        )

    def _variants(self, index: int) -> list[Variant]:
        curves, experts = self.settings.curves, self.settings.experts
        return variants(self.architecture, index, curves, experts, self.rounded.formats[index])

    def _left(self) -> list[int]:
        return [i for i in range(len(self.architecture.blocks)) if i not in self.removed]

    def _save(self, streams: Streams, position: int, place: int) -> None:
        tensors = {"hidden": streams.hidden[: streams.alive]}
        tensors |= {
            f"found.{name}": torch.from_numpy(np.ascontiguousarray(a))
            for name, a in self.found.arrays.items()
        }
        if self.reference is not None:
            tensors["reference"] = self.reference
        about = {
            "removed": self.removed,
            "place": place,
            "passed": self.progress.done,
            "arrays": [f"found.{name}" for name in self.found.arrays],
            "variants": [asdict(variant) for variant in streams.variants],
        }
        self.state.save(position, about, tensors)

    def _restore(self, streams: Streams, about: dict[str, Any], tensors: SavedTensors) -> int:
        self.progress.advance(about["passed"])
        streams.variants = [Variant(**variant) for variant in about["variants"]]
        tensors.read_into("hidden", streams.hidden)
        if "reference" in tensors.entries:
            self.reference = streams.hidden.new_empty(tensors.entries["reference"].shape)
            tensors.read_into("reference", self.reference)
        return int(about["place"])

    def _head(self) -> Tensor | None:
        if not find(self.settings.metric).logits:
            return None
        name = "embeddings.weight" if self.architecture.tied_head else "head.weight"
        dtype = self.peak.dtype if self.group.device.type == "cuda" else torch.float32
        return self.reader.tensor(name, dtype)

    def _meta(self) -> dict[str, Any]:
        meta = {
            **asdict(self.settings),
            **self.data,
            "width_samples": self.width_samples,
            "block_samples": self.block_samples,
            "dtype": str(self.peak.dtype).removeprefix("torch."),
        }
        return meta | ({"removal_order": self.removed} if self.settings.iterative else {})
