"""Streamed scoring: one block in memory at a time, the samples of a pass through block i before
block i + 1 is read.

Removing or narrowing block j changes nothing before j, so a variant begins as the parent's stream
at j and flows beside it from there: N removals cost N(N+1)/2 block-forwards a sample, the parent's
N included, and one read of the weights a pass (``memory.passes``; one where all streams fit); the
naive loop costs N(N-1) + N and N reads. score(j) =
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
from torch import Tensor

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks
from minipuzzle.identity import fingerprint
from minipuzzle.importance.amount import check_settings
from minipuzzle.importance.bits import Rounded
from minipuzzle.importance.curves import Variant, variants
from minipuzzle.importance.ends import error_sums, errors
from minipuzzle.importance.found import Found
from minipuzzle.importance.metrics import find
from minipuzzle.importance.peak import ScoringPeak, compute_dtype, plan_peak
from minipuzzle.importance.samples import Samples
from minipuzzle.importance.state import SavedTensors, State, bytes_of
from minipuzzle.importance.streams import Streams
from minipuzzle.importance.visit import Visits
from minipuzzle.interrupt import Interrupt, interrupt
from minipuzzle.memory.passes import Pass, later_round
from minipuzzle.model.prefetch import BlockReader, embed_into
from minipuzzle.progress import SILENT, Counting, Progress
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings

log = logging.getLogger(__name__)


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
        self.samples = Samples(blocks, settings, group)
        self.reader = BlockReader(
            checkpoint, device=group.device, dtype=compute_dtype(checkpoint, group.device)[0]
        )
        self.peak: ScoringPeak = plan_peak(
            checkpoint,
            settings,
            samples=self.samples.most,
            shared=self.samples.most_shared,
            length=blocks.block_length,
            group=group,
            fast=self.reader.kernels.name == "mamba-ssm",
        )
        self.data = {"block_length": blocks.block_length, "data": blocks.fingerprint}
        load = self.peak.load
        identity = fingerprint(
            checkpoint.fingerprint,
            settings.identity(),
            blocks.fingerprint,
            group.world,
            str(group.device),
            str(self.peak.dtype),
            load.rows if len(load.passes) > 1 else 0,
        )
        self.state = State(partial, identity, group, stop)
        self.found = Found(self.architecture)
        rounded = Rounded(checkpoint, settings)
        self.visits = Visits(self.architecture, settings, self.samples, rounded, self.found, group)
        self.removed: list[int] = []
        self.reference: Tensor | None = None

    def scores(self) -> Scores:
        """Run what is left to do, and assemble the result."""
        saved = self.state.load()
        done = turn = 0
        if saved is not None:
            done, about, tensors = saved
            self.removed, turn = about["removed"], about["turn"]
            self.found.arrays = {
                name.removeprefix("found."): tensors.array(name) for name in about["arrays"]
            }
        hidden = self._memory(self.peak.load.held)
        for number in range(len(self.removed) // self.step, max(1, self.settings.iterative)):
            for now in self._passes()[turn:]:
                streams, done_here = self._streams(hidden, now), 0
                if saved is None:
                    tokens = self.samples.tokens[now.start : now.start + streams.samples]
                    embed_into(hidden[: streams.samples], self.checkpoint, tokens)
                else:
                    done_here = self._restore(streams, saved[1], saved[2])
                    saved = None
                self._walk(streams, now, turn, done, done_here)
                done += len(self._left()) - done_here
                turn += 1
            turn = 0
            conversations = 0 if self.samples.counted is None else self.samples.for_blocks
            found = errors(self.found.arrays.pop("sums"), conversations)
            if number == 0:
                self.found.add_errors(streams.variants, found)
            if self.settings.iterative:
                self.removed += self.found.least_removal(streams.variants, found)
        return self.found.scores(self._meta())

    def _walk(self, streams: Streams, now: Pass, turn: int, done: int, done_here: int) -> None:
        """One pass over all blocks that are left, from the ``done_here``-th on, and the sums of its
        variants' errors.
        """
        left = self._left()
        for place, (index, module) in enumerate(self.reader.blocks(left[done_here:]), start=1):
            self.visits.visit(streams, index, module, now, whole=not self.removed)
            streams.settle()
            tensors = self._tensors(streams)
            if self.state.due(bytes_of(tensors)):
                self._save(tensors, streams, turn, done + place, done_here + place)
        if not now.shared:
            return
        part = slice(now.start, now.start + streams.shared)
        reference = streams.hidden[: streams.shared]
        if self.settings.iterative > 1:
            if self.reference is None:
                self.reference = self._memory(self.samples.shared)
            if not self.removed:
                self.reference[part] = reference
            reference = self.reference[part]
        counted = self.samples.counted
        sums = error_sums(
            streams,
            reference,
            self.reader.final_norm(),
            self._head(),
            self.samples.text(part),
            self.settings.metric,
            self.group,
            None if counted is None else counted[part],
        )
        self.found.total("sums", sums, last=False)

    def _passes(self) -> tuple[Pass, ...]:
        """Those of this round, of the process that has most samples."""
        load = self.peak.load
        if not self.removed:
            return load.passes
        left = self._left()
        count = sum(len(variants(self.architecture, i, curves=False)) for i in left)
        return later_round(shared=load.shared, variants=count, rows=load.rows)

    def _memory(self, rows: int) -> Tensor:
        """[rows, s, hidden] for hidden states."""
        shape = rows, self.samples.tokens.shape[1], self.architecture.hidden
        return torch.empty(shape, dtype=self.peak.dtype, device=self.group.device)

    def _streams(self, hidden: Tensor, now: Pass) -> Streams:
        mine = now.of(len(self.samples.tokens), self.samples.shared)
        return Streams(
            hidden,
            samples=mine.samples,
            shared=mine.shared,
            batch=self.settings.batch,
            progress=self.progress,
        )

    def _left(self) -> list[int]:
        return [i for i in range(len(self.architecture.blocks)) if i not in self.removed]

    def _tensors(self, streams: Streams) -> dict[str, Tensor]:
        """What a save keeps."""
        tensors = {"hidden": streams.hidden[: streams.alive]}
        tensors |= {
            f"found.{name}": torch.from_numpy(np.ascontiguousarray(a))
            for name, a in self.found.arrays.items()
        }
        if self.reference is not None:
            tensors["reference"] = self.reference
        return tensors

    def _save(
        self, tensors: dict[str, Tensor], streams: Streams, turn: int, position: int, place: int
    ) -> None:
        about = {
            "removed": self.removed,
            "turn": turn,
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
            "width_samples": self.samples.for_widths,
            "block_samples": self.samples.for_blocks,
            "dtype": str(self.peak.dtype).removeprefix("torch."),
        }
        del meta["activations"]  # as in the identity: it says nothing of what was measured
        return meta | ({"removal_order": self.removed} if self.settings.iterative else {})
