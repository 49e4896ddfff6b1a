"""Where a stage keeps its training states and logs in a run directory, and what becomes of them
when something else is trained there: nothing is deleted for a changed option, it is set aside under
a name that is said.

A folder holds the legs of one training (short runs, the long one), each with a log, its states
while they are needed, and ``result.json`` once its validation loss is known, from which a killed
command takes it.
"""

from __future__ import annotations

import datetime
import logging
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from minipuzzle.bars import progress_bar
from minipuzzle.data import TokenBlocks
from minipuzzle.data.blend import epochs
from minipuzzle.model import HybridLM
from minipuzzle.ranks import Ranks
from minipuzzle.records import LegRecord, TrainingRecord
from minipuzzle.rundir import RunDir
from minipuzzle.runs.job import Job
from minipuzzle.runs.meter import Meter
from minipuzzle.settings import Training
from minipuzzle.settings.lengths import Lengths
from minipuzzle.training import train
from minipuzzle.training.checkpointing import list_states
from minipuzzle.training.curve import Curve
from minipuzzle.training.loop import STATES
from minipuzzle.training.objectives import Objective
from minipuzzle.training.on_policy import OnPolicy
from minipuzzle.training.prepare import Served

log = logging.getLogger(__name__)

ABOUT, RESULT = "identity.json", "result.json"


class TrainingFolder:
    """``run/<stage>/`` of the training ``identity`` (what its states fit to), as part of the
    stage's inputs ``key``.

    Only the first process of a torchrun calls ``claim``, ``replace`` and ``finish``.
    """

    def __init__(self, run: RunDir, stage: str, identity: str, key: str) -> None:
        self.run, self.stage, self.identity, self.key = run, stage, identity, key
        self.path = run / stage

    def leg(self, name: str) -> Leg:
        """One of the trainings in it."""
        return Leg(self.path / name)

    def claim(self) -> None:
        """Go on with what is there where it is this training's and unfinished; set it aside where
        it is not.
        """
        about = _about(self.path)
        if self.path.exists() and not self._is_ours(about):
            if self._is_finished(about):
                self.finish()
            if any(self.path.iterdir()):
                aside = _set_aside(self.path)
                log.info(
                    f"{self.stage}: the logs and training checkpoints of other settings are kept in"
                    f" {aside}{_size(aside)}"
                )
            about = None
        for aside in sorted(self.run.path.glob(f"{self.stage}.before-*")) if about is None else []:
            if not self.path.exists() and self._is_ours(_about(aside)):
                aside.rename(self.path)
                about = _about(self.path)
                log.info(f"{self.stage}: goes on with what was set aside as {aside}")
        if about is None or about.key != self.key:
            self._save(replace(self._known(), key=self.key, finished=False, replaced=False))

    def replace(self, *targets: Path) -> None:
        """Make room for what this training makes: an older one's ``targets`` are set aside,
        once.
        """
        if self._known().replaced:
            return
        self.run.unmark(self.stage)
        for target in targets:
            if target.exists():
                aside = _set_aside(target)
                log.info(
                    f"{self.stage}: {target.name} of other settings is kept as"
                    f" {aside}{_size(aside)}"
                )
        self._save(replace(self._known(), replaced=True))

    def finish(self) -> None:
        """The result is marked as done: states and the legs' results go, the logs stay. Doing it
        again does nothing.
        """
        about = _about(self.path)
        if about is None or about.finished:
            return
        for path in [*self.path.glob(f"*/{STATES}"), self.path / STATES]:
            shutil.rmtree(path, ignore_errors=True)
        for path in self.path.glob(f"*/{RESULT}"):
            path.unlink()
        self._save(replace(self._known(), finished=True))

    def _is_ours(self, about: TrainingRecord | None) -> bool:
        return (
            about is not None and about.identity == self.identity and not self._is_finished(about)
        )

    def _is_finished(self, about: TrainingRecord | None) -> bool:
        return about is not None and (about.finished or self.run.is_done(self.stage, about.key))

    def _save(self, about: TrainingRecord) -> None:
        about.save(self.path / ABOUT)

    def _known(self) -> TrainingRecord:
        """What lies there, or this training at its beginning."""
        return _about(self.path) or TrainingRecord(
            identity=self.identity, key=self.key, finished=False, replaced=False
        )


class Leg:
    """The folder of one training."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def loss(self) -> float | None:
        """Its validation loss in nats a token where it has ended (NaN: training broke down), None
        where it has not.
        """
        file = self.path / RESULT
        if not file.exists():
            return None
        found = LegRecord.load(file).validation_loss
        return math.nan if found is None else found

    def tasks(self) -> float:
        """The average of tasks of a leg that has ended with one."""
        found = LegRecord.load(self.path / RESULT).tasks
        if found is None:
            raise ValueError(f"{self.path} has ended without tasks")
        return found

    def ended(self, loss: float, tasks: float | None = None) -> None:
        """Keep its validation loss, the average of tasks where they were asked, and of its states
        only the last one.
        """
        found = loss if math.isfinite(loss) else None
        LegRecord(validation_loss=found, tasks=tasks).save(self.path / RESULT)
        for state in list_states(self.path / STATES)[1:]:
            shutil.rmtree(state)

    def forget(self) -> None:
        """Delete its states: nothing goes on from them."""
        shutil.rmtree(self.path / STATES, ignore_errors=True)


def _about(folder: Path) -> TrainingRecord | None:
    file = folder / ABOUT
    return TrainingRecord.load(file) if file.exists() else None


def _set_aside(path: Path) -> Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    aside, count = path.with_name(f"{path.name}.before-{now}"), 1
    while aside.exists():
        count += 1
        aside = path.with_name(f"{path.name}.before-{now}-{count}")
    path.rename(aside)
    return aside


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return f" ({size / 1e9:.1f} GB)" if size >= 5e7 else ""


def train_in(
    job: Job,
    model: HybridLM,
    objective: Objective,
    blocks: TokenBlocks,
    settings: Training,
    folder: Path,
    identity: str,
    label: str,
    *,
    group: Ranks,
    teacher: HybridLM | None,
    on_policy: OnPolicy | None = None,
    curve: Curve | None = None,
    served: Served = nullcontext,
    lengths: Lengths = (),
) -> float:
    """``train`` in a folder of the run, with a progress bar; says how often it reads each source of
    a blend.
    """
    for line in epochs(blocks, settings.tokens):
        log.info(f"{label}: {line}")
    with progress_bar(label, settings.tokens, "tokens") as bar:
        meter = Meter(
            bar,
            settings.tokens,
            model.architecture,
            lengths or ((blocks.block_length, 1.0),),
            job.device,
            teacher=None if teacher is None else teacher.architecture,
            ranks=group.world,
            frozen=hasattr(model, "adapters"),
        )
        return train(
            model,
            objective,
            blocks,
            settings,
            folder,
            identity=identity,
            progress=meter,
            ranks=group,
            teacher=teacher,
            on_policy=on_policy,
            curve=curve,
            served=served,
            lengths=lengths,
        )
