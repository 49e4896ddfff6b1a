"""The runs of a distillation: each rate, each candidate (``race``), and the long one."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial

from minipuzzle.bars import progress_bar
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks
from minipuzzle.export.compressed import Encoder
from minipuzzle.export.served import served
from minipuzzle.identity import fingerprint
from minipuzzle.interrupt import Interrupt
from minipuzzle.metrics import Metrics, measure
from minipuzzle.model import HybridLM
from minipuzzle.questions.choosing import Asked, average, by_kind, counted
from minipuzzle.ranks import Ranks
from minipuzzle.runs.adapters import adapted
from minipuzzle.runs.checks import DistillInputs, open_caches
from minipuzzle.runs.job import Job
from minipuzzle.runs.race import Leg, Outcome, race
from minipuzzle.runs.teacher import load_teacher
from minipuzzle.runs.training_folder import TrainingFolder, train_in
from minipuzzle.settings import DistillSettings, Training
from minipuzzle.settings.lengths import Lengths
from minipuzzle.settings.training import Trained
from minipuzzle.training import distillation, load_parameters
from minipuzzle.training.curve import POINTS, Curve
from minipuzzle.training.guard import BrokenDown
from minipuzzle.training.loop import STATES
from minipuzzle.training.objectives import Objective
from minipuzzle.training.offline import stored
from minipuzzle.training.on_policy import OnPolicy
from minipuzzle.training.optimizers import narrow
from minipuzzle.training.prepare import Served
from minipuzzle.training.trained import choose_trained

log = logging.getLogger(__name__)

LONG = "long"
"""The folder of the long run among those of a distillation's training."""
USUAL: Trained = "all-but-routers"
"""What a distillation trains: a router would see its gradient through chosen experts alone."""
CURVE_SHARE, FEWEST_BLOCKS = 0.02, 16
RATE_SHARE = 5
"""A fifth of a long run told which rate suits it: docs/decisions/learning-rate.md."""


class Legs:
    """What the short runs and the long one share: teacher, texts, tasks, and where states lie; with
    an ``encoder`` students compute with the weights that it writes.
    """

    def __init__(
        self,
        job: Job,
        settings: DistillSettings,
        group: Ranks,
        inputs: DistillInputs,
        folder: TrainingFolder,
        stop: Interrupt,
        encoder: Encoder | None = None,
    ) -> None:
        self.job, self.settings, self.group, self.inputs = job, settings, group, inputs
        self.folder, self.stop, self.training = folder, stop, settings.training
        self.encoder = encoder
        self.tasks: dict[str, float] = {}
        self.curve: list[tuple[int, float]] = []
        self.domains: dict[str, float] = {}
        self._asked: Asked = {}
        if settings.winner == "tasks":
            self._asked = counted(job.load_frozen(job.original, group), job.questions())
        self.objective = (
            self._offline()
            if settings.teacher_logits
            else distillation(self.teacher, settings.loss, spans=inputs.blocks.spans)
        )
        self.on_policy = self._on_policy() if inputs.prompts is not None else None

    def try_rates(self, cuts: dict[str, Checkpoint]) -> dict[str, float]:
        """The first candidate's validation loss at each of the rates, after a short run or a fifth
        of the long one.

        The best rate is taken from here on.
        """
        name, cut = next(iter(cuts.items()))
        rates, found = self.settings.rates, dict[float, float]()
        tokens = max(1, min(self.settings.short_tokens, self.training.tokens // RATE_SHARE))
        for rate in rates:
            label = f"rate-{rate:g}"
            try:
                loss = self._short(
                    cut, name, Leg(label, tokens), replace(self.training, learning_rate=rate)
                )
            except BrokenDown:
                loss = math.nan
                self.group.by_first(partial(self.folder.leg(f"{name}-{label}").ended, math.nan))
            self._drop(name, label)
            if math.isfinite(loss):
                found[rate] = loss
            else:
                log.warning(f"distill: training breaks down at a learning rate of {rate:g}")
        if found:
            best = min(found, key=found.__getitem__)
            self.training = replace(self.training, learning_rate=best)
            log.info(f"distill: learning rate {best:g} is the best of {len(rates)}")
        return {f"{rate:g}": loss for rate, loss in found.items()}

    def short_runs(self, cuts: dict[str, Checkpoint]) -> Outcome:
        """The candidate with the lowest validation loss after its short run, or with the best
        average of tasks.
        """
        losses: dict[str, float] = {}

        def run(name: str, leg: Leg) -> float:
            losses[name] = self._short(cuts[name], name, leg, self.training)
            return 1 - self.tasks[name] if name in self.tasks else losses[name]

        found = race(list(cuts), self.settings.short_tokens, run, self._drop)
        return replace(found, short={name: losses[name] for name in found.short})

    def _drop(self, name: str, label: str) -> None:
        self.group.by_first(self.folder.leg(f"{name}-{label}").forget)

    def _short(self, cut: Checkpoint, name: str, leg: Leg, training: Training) -> float:
        """Train a candidate for a leg, from its screening run's weights where it goes on from them.

        Returns its validation loss, in nats a token.
        """
        place = self.folder.leg(f"{name}-{leg.label}")
        known = self.group.by_first(place.loss)
        by_tasks = bool(self._asked) and leg.label == "short"
        if known is not None:
            if by_tasks:
                self.tasks[name] = self.group.by_first(place.tasks)
            return known
        model = self._student(cut, after=f"{name}-screening" if leg.before else "")
        shares = self.group.world // training.context_parallel
        batch = max(1, training.batch // shares // leg.smaller) * shares
        self._train(
            model,
            replace(training, tokens=leg.tokens, batch=batch),
            place.path.name,
            f"{name} {leg.label}",
            f"{name}, {leg.label}",
        )
        found = self._measure(model)
        loss = found.loss
        log.info(
            f"distill: {name} after {leg.before + leg.tokens:,} tokens: validation loss {loss:.4f}"
            f" nats/token{_by_domain(found)}"
        )
        if by_tasks:
            kinds = by_kind(model, self._asked)
            self.tasks[name] = average(kinds)
            each = ", ".join(f"{kind} {value:.3f}" for kind, value in kinds.items())
            log.info(f"distill: {name}: questions above chance {self.tasks[name]:.4f} ({each})")
        self.group.by_first(lambda: place.ended(loss, self.tasks.get(name)))
        self.stop.check(self.group)
        return loss

    def long_run(
        self, cut: Checkpoint, name: str, short: float | None
    ) -> tuple[HybridLM, float, tuple[float, float]]:
        """(the trained student, its last KL, its validation loss before and after), from its short
        run's weights where there was one, which ended with the loss ``short``.
        """
        model = self._student(cut, after="" if short is None else f"{name}-short")
        before = self._measure(model).loss if short is None else short
        curve = self._curve()
        final = self._train(
            model, self.training, LONG, name, "long run", curve, lengths=self.settings.length
        )
        found = self._measure(model)
        after, self.curve = found.loss, curve.points
        self.domains = {name: part.loss for name, part in found.domains.items()}
        log.info(
            f"distill: validation loss {before:.4f} nats/token before the long run, {after:.4f}"
            f" after it{_by_domain(found)}"
        )
        if not after < before:
            log.warning(
                "distill: the long run made the student worse. Distil again with a lower"
                " training.learning_rate or more training.tokens."
            )
        return model, final, (before, after)

    def _train(
        self,
        model: HybridLM,
        settings: Training,
        name: str,
        identity: str,
        label: str,
        curve: Curve | None = None,
        lengths: Lengths = (),
    ) -> float:
        folder, identity = self.folder.path / name, f"{self.folder.identity} {identity}"
        final = train_in(
            self.job,
            model,
            self.objective,
            self.inputs.blocks,
            settings,
            folder,
            identity,
            f"distill: {label}",
            group=self.group,
            teacher=None if self.settings.teacher_logits else self.teacher,
            on_policy=self.on_policy,
            curve=curve,
            served=self._served(model),
            lengths=lengths or ((self.job.data.length, 1.0),),
        )
        self.stop.check(self.group)
        return final

    def _curve(self) -> Curve:
        """Of the long run, on as many validation blocks as take CURVE_SHARE of its time, and on
        FEWEST_BLOCKS at least.
        """
        whole, tokens = self.inputs.validation, self.training.tokens
        # A token costs a forward of the teacher, and one and a backward pass (two) of the student.
        each = CURVE_SHARE * 4 * tokens / (POINTS * whole.block_length)
        sample = whole.take(min(len(whole), max(FEWEST_BLOCKS, int(each))))
        steps = self.training.steps(self.job.data.length)
        return Curve(lambda model: self._measure(model, sample).loss, tokens, steps)

    def _measure(self, model: HybridLM, blocks: TokenBlocks | None = None) -> Metrics:
        """Of a student as it is served, on the validation text or other ``blocks``."""
        with self._served(model)():
            return measure(model, blocks or self.inputs.validation)

    def _served(self, model: HybridLM) -> Served:
        return nullcontext if self.encoder is None else partial(served, model, self.encoder)

    def _student(self, checkpoint: Checkpoint, after: str) -> HybridLM:
        """A candidate's model, with the weights that the run ``after`` left where one is named."""
        if self.settings.adapter.kind:
            model = adapted(self.job, checkpoint, self.settings.adapter, self.training, self.group)
        else:
            model = self.job.load(checkpoint, self.group, self.training)
            choose_trained(model, self.training.trains(USUAL))
            narrow(model, self.training)  # as the state of a run before has them
        if after:
            load_parameters(self.folder.path / after / STATES, model, self.group)
        return model

    @cached_property
    def teacher(self) -> HybridLM:
        """Loaded where it is needed first."""
        return load_teacher(self.job, self.settings, self.inputs, self.group)

    def _on_policy(self) -> OnPolicy:
        settings, prompts = self.settings, self.inputs.prompts
        assert prompts is not None
        said = (settings.on_policy, settings.completion, settings.on_policy_loss)
        return OnPolicy(
            share=settings.on_policy,
            prompts=prompts.tokens,
            length=settings.completion,
            ends=self.job.tokenizer.ends,
            objective=distillation(self.teacher, settings.on_policy_loss, spans=True),
            identity=fingerprint(*said, prompts.fingerprint),
        )

    def _offline(self) -> Objective:
        """The objective from stored words; the teacher is loaded only for shards that are
        missing.
        """
        caches = open_caches(self.settings, self.inputs)
        for cache in caches:
            missing, length = cache.missing(), cache.blocks.block_length
            log.info(
                f"distill: teacher logits in {cache.folder}: {cache.size()}; {len(missing)} shards"
                " are missing"
            )
            if missing:
                total = len(missing) * cache.rows * length
                together = self.training.batch * self.job.data.length // length
                with progress_bar("distill: teacher", total, "tokens") as bar:
                    cache.fill(
                        self.teacher, missing, self.group, max(1, together // self.group.world), bar
                    )
        return stored(*caches)


def _by_domain(found: Metrics) -> str:
    """The loss of each domain of the text, where it has several."""
    each = [f"{name} {part.loss:.4f}" for name, part in found.domains.items()]
    return f" ({', '.join(each)})" if each else ""
