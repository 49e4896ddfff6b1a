"""The one training loop: pretrain, distill and adapters differ only in the model and the objective
that they pass in.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from minipuzzle.data import TokenBlocks
from minipuzzle.data.ahead import Ahead
from minipuzzle.errors import UserError
from minipuzzle.identity import fingerprint
from minipuzzle.interrupt import GOES_ON, Interrupt, interrupt
from minipuzzle.model import HybridLM
from minipuzzle.progress import SILENT, Progress
from minipuzzle.ranks import Ranks, alone
from minipuzzle.settings import RATE, Training
from minipuzzle.settings.lengths import Lengths
from minipuzzle.training.adamw import keep_copies
from minipuzzle.training.average import Average
from minipuzzle.training.board import Boards
from minipuzzle.training.captured import Backward, backward_of
from minipuzzle.training.checkpointing import States
from minipuzzle.training.curve import Curve
from minipuzzle.training.expert_load import ExpertLoad, expert_load, summary
from minipuzzle.training.guard import Guard
from minipuzzle.training.log import LOG, TrainingLog, mean
from minipuzzle.training.objectives import Objective
from minipuzzle.training.on_policy import FIELDS, Completions, OnPolicy
from minipuzzle.training.optimizers import make_optimizer
from minipuzzle.training.pace import Pace
from minipuzzle.training.parallel import context_parallel
from minipuzzle.training.position import Position
from minipuzzle.training.prepare import Served, prepare, unprepare
from minipuzzle.training.schedule import learning_rate
from minipuzzle.training.stages import Stage, stages
from minipuzzle.training.update import Update, check_batch, micro_batches, update

log = logging.getLogger(__name__)

LOG_EVERY_STEPS = 10
FINAL_ROWS = 3
STATES = "state"


def train(
    model: HybridLM,
    objective: Objective,
    blocks: TokenBlocks,
    settings: Training,
    folder: Path,
    *,
    identity: str,
    progress: Progress = SILENT,
    ranks: Ranks | None = None,
    teacher: HybridLM | None = None,
    on_policy: OnPolicy | None = None,
    curve: Curve | None = None,
    served: Served = nullcontext,
    lengths: Lengths = (),
) -> float:
    """Train ``model`` in place and return the mean loss (nats per token) of the last logged steps.

    Only parameters that require gradients are trained and saved. ``folder`` receives ``state/`` and
    ``log.csv``; when they are there already, from the same ``identity`` and settings, training goes
    on after the last saved state, and the result equals an uninterrupted run's bit for bit on a
    CPU. Batch and learning rate may differ from before. ``progress`` is told of tokens and of their
    mean ``loss``. FP32 master weights; on CUDA the products run in BF16, or in FP8 as
    ``settings.precision`` says; the trained model is a BF16 one again.

    With several ``ranks`` the model is sharded (``parallel.shard``; adapters are not: each process
    holds all of them) and each takes a share of every batch. ``teacher`` runs beside it, for the
    estimate of memory. Where it is the turn of ``on_policy``, a step is on what the model writes
    and uses up a batch of ``blocks``; ``curve`` gets its points. Losses and completions are of the
    weights within ``served``, updated and saved are its own. ``blocks`` are cut to ``lengths``
    (``stages``). SIGTERM saves and exits with 0, Ctrl-C saves and raises KeyboardInterrupt. Raises:
    UserError where training breaks down, the state is another run's, or the disk is full.
    """
    settings = settings.at(RATE)
    ranks = ranks or alone(model.device)
    turns = stages(blocks, settings, lengths)
    for stage in turns:
        check_batch(stage.settings, stage.blocks.block_length, ranks)
    identity = fingerprint(
        identity,
        settings.fixed(),
        blocks.fingerprint,
        model.architecture.identity(),
        *([] if on_policy is None else [on_policy.identity]),
        *([n, share] for n, share in lengths if n != blocks.block_length),
    )
    states = States(folder / STATES, identity, ranks)
    with interrupt(ranks) as stop, expert_load(model, ranks) as load:
        most = max(turns, key=lambda stage: stage.at_once(ranks.world))
        try:
            twice, at_once = served is not nullcontext, most.at_once(ranks.world)
            chosen = prepare(model.train(), most.settings, at_once, ranks, teacher, twice)
            if chosen:
                log.info(chosen)
            others = states, stop, progress, load, on_policy, curve, served
            losses = _Run(model, objective, turns, settings, folder, ranks, *others).finish()
        except UserError:
            if ranks.world == 1:  # among several a writer may wait for one that is gone
                states.settle()
            raise
        finally:  # whatever ends it: the caller may keep the model
            unprepare(model)
    return sum(losses) / len(losses)


class _Run:
    """The state of ``train`` between steps."""

    def __init__(
        self,
        model: HybridLM,
        objective: Objective,
        stages: Sequence[Stage],
        settings: Training,
        folder: Path,
        ranks: Ranks,
        states: States,
        stop: Interrupt,
        progress: Progress,
        load: ExpertLoad,
        on_policy: OnPolicy | None,
        curve: Curve | None,
        served: Served,
    ) -> None:
        self.model, self.objective, self.settings = model, objective, settings
        self.ranks, self.states, self.stop = ranks, states, stop
        self.progress, self.load = progress, load
        self.on_policy, self.curve, self.served = on_policy, curve, served
        self.stages, self.begun = stages, cast(Stage | None, None)
        self.parallel = context_parallel(ranks, settings.context_parallel)
        self.optimizer = make_optimizer(model, settings)
        self.average = Average(model, settings.average, settings.tokens)
        saved = states.load(model, self.optimizer, self.average.tensors)
        self.at = Position(**(saved or {}))
        self.average.count = self.at.averaged
        own = ranks.world == 1 and ranks.device.type == "cuda" and served is nullcontext
        self.copies = keep_copies(model, self.optimizer, stages) if own else {}
        if on_policy is not None:
            said = on_policy.objective
            self.on_completions = Backward(
                model, said, captures=False, copies=self.copies, parallel=self.parallel
            )
        if curve is not None:
            curve.resume(self.at.curve)
        self.guard = Guard(**self.at.guard)
        self.load.before = self.at.given
        self.written = Completions(**self.at.written)
        more = [*load.fields, *(FIELDS if on_policy is not None else ())]
        self.log = TrainingLog.resume(folder / LOG, step=self.at.step, more=more)
        self.boards = Boards(settings.log_to if ranks.rank == 0 else (), folder, self.at.step)
        self.pace = Pace(settings.save_every, time.monotonic())
        self.started = time.monotonic() - self.at.seconds
        if saved is not None:
            log.info(self.at.going_on(settings))

    def _stage(self) -> Stage:
        """That of the next step."""
        stage = next(each for each in self.stages if self.at.tokens < each.stop)
        if stage is not self.begun:
            self.begun, self.ahead = stage, Ahead(stage.blocks)
            how = stage.settings, self.ranks, self.parallel, self.copies
            self.backward = backward_of(self.model, self.objective, *how)
            if len(self.stages) > 1:
                log.info(f"after {self.at.tokens:,} tokens: {stage}")
        return stage

    def finish(self) -> list[float]:
        """Step until the tokens are used up; the last losses that were logged."""
        self.progress.update(self.at.tokens, loss=math.nan)
        with self.boards:
            while self.at.tokens < self.settings.tokens:
                began, writing, before = time.monotonic(), self.states.writing, self.at.tokens
                done = self._step(not writing and self.pace.due(began))
                self.pace.stepped(began, time.monotonic(), writing=writing)
                last = self.at.tokens >= self.settings.tokens
                if self.at.step % LOG_EVERY_STEPS == 0 or last:
                    self._write_row()
                stopping, saving = (vote > 0 for vote in done.votes)
                if stopping:
                    self.stop.agreed.set()
                if last:
                    self.average.take()
                if self.curve is not None and self.curve.due(before, self.at.tokens):
                    with self.load.paused():
                        self.curve.add(self.model, self.at.tokens)
                if stopping or saving or last:
                    self._save(last)
                if stopping and not last:
                    self.states.wait()
                    log.info(
                        f"stopped by {self.stop.asked or 'SIGTERM'} after {self.at.tokens:,}"
                        f" tokens; {GOES_ON}"
                    )
                    raise self.stop.stopped()
            self.states.wait()
        return self.at.losses

    def _step(self, due: bool) -> Update:
        stage = self._stage()
        at, settings, length = self.at, stage.settings, stage.blocks.block_length
        per_step = settings.batch * length
        rate = learning_rate(settings, at.tokens / per_step, settings.steps(length))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Random numbers (an adapter's dropout) follow from the position, so that no state of a
        # generator is saved.
        torch.manual_seed(int(fingerprint(settings.seed, at.tokens, self.ranks.rank), 16) >> 1)
        own, lengths = self._completions()
        done = update(
            self.model,
            self.on_completions if own else self.backward,
            self.optimizer,
            iter(own)
            if own
            else micro_batches(
                self.ahead, settings, at.tokens // length, self.ranks, self.ranks.device
            ),
            clip=settings.clip,
            guard=self.guard,
            ranks=self.ranks,
            served=self.served,
            # any process may have been told to stop; the first one's clock says when to save
            votes=lambda: (float(bool(self.stop.asked)), float(due and self.ranks.rank == 0)),
        )
        at.tokens, at.step, at.updates = (
            at.tokens + per_step,
            at.step + 1,
            at.updates + (not done.skipped),
        )
        at.batch, at.learning_rate = self.settings.batch, settings.learning_rate
        if settings.balance:
            self.load.balance(settings.balance)
        self.average.add(at.tokens)
        if own:
            self.written.add(done.loss, lengths)
        at.window = [*at.window, (math.nan if own else done.loss, done.entropy, done.norm)]
        if done.skipped:
            log.warning(f"step {at.step} skipped: {done.skipped}")
        return done

    def _completions(self) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
        """``OnPolicy.batch`` of this step where it is on completions, made by the weights as they
        are; else nothing.
        """
        if self.on_policy is None or not self.on_policy.turn(self.at.step):
            return [], []
        with self.load.paused(), self.served():
            return self.on_policy.batch(self.model, self.at.step, self.settings, self.ranks)

    def _write_row(self) -> None:
        loss, entropy, norm = map(mean, zip(*self.at.window, strict=True))
        written = {} if self.on_policy is None else self.written.row(len(self.at.window))
        if math.isnan(loss):  # no step was on text
            loss = written.get("completion_loss", loss)
        self.written = Completions()
        self.at.window, self.at.losses = [], [*self.at.losses, loss][-FINAL_ROWS:]
        load = self.load.row()
        self.log.add(
            step=self.at.step,
            tokens=self.at.tokens,
            loss=loss,
            teacher_entropy=entropy,
            grad_norm=norm,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            seconds=time.monotonic() - self.started,
            skipped=self.guard.skipped,
            **load,
            **written,
        )
        self.boards.write(self.log.rows[-1])
        known = {name: value for name, value in written.items() if math.isfinite(value)}
        self.progress.update(self.at.tokens, loss=loss, **summary(load), **known)

    def _save(self, last: bool) -> None:
        began = time.monotonic()
        self.at.seconds, self.at.guard = began - self.started, self.guard.state()
        self.at.given, self.at.written = self.load.given(), asdict(self.written)
        if self.ranks.rank == 0:
            self.log.write()
        self.at.averaged = self.average.count
        self.at.curve = [] if self.curve is None else self.curve.points
        more = {} if last else self.average.tensors  # the weights are the mean by then
        self.states.save(self.model, self.optimizer, asdict(self.at), more)
        self.pace.saved(began, time.monotonic())
