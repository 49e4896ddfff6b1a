"""The run directory: which checkpoint it is about, and which stages are done with which inputs. No
torch.
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from minipuzzle.errors import UserError
from minipuzzle.lock import hold
from minipuzzle.records import CommandLog, CommandRow, Original, RunRecord, Stage, StepRow
from minipuzzle.records.run_record import ParentPath, Stages
from minipuzzle.temporary import sweep_run

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Stage)
STEPS = "steps"
"""The folder in a run directory that holds those of its earlier steps."""
WORTH_SAYING = 100_000_000
"""Bytes that are freed in silence below this."""


class RunDir:
    """A folder that every command works in. ``run.json`` holds the parent and the finished stages.

    ``writes`` is false in all processes of a torchrun but the first: the others only read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes = os.environ.get("RANK", "0") == "0"
        self._file = path / "run.json"
        self.record = RunRecord(parent=None, stages=Stages())
        self._read()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else works in this folder meanwhile; one ``locked`` may lie within another.

        ``run.json`` is read again, and what killed processes left half written is removed.
        Raises: UserError where another process is at work here.
        """
        if not self.writes:
            yield
            return
        with hold(self.path) as lock:
            if lock.missing:
                if lock.first:
                    log.warning(
                        f"{self.path}: its file system has no locks ({lock.missing}), so that"
                        " nothing keeps a second command out: start only one at a time"
                    )
            elif lock.first and (freed := sweep_run(self.path)) >= WORTH_SAYING:
                log.info(
                    f"{self.path}: removed {freed / 1e9:,.1f} GB that a killed command had left"
                    " half written"
                )
            self._read()
            yield

    @property
    def parent(self) -> Path | None:
        """The checkpoint this run is about, None before the first command."""
        return None if self.record.parent is None else self.path / self.record.parent.path

    @property
    def original(self) -> Path | None:
        """The checkpoint that the parent was made from in earlier steps, None where there were
        none.
        """
        return None if self.record.original is None else Path(self.record.original.path)

    def set_parent(self, path: Path, fingerprint: str, original: Original | None = None) -> None:
        """Say which checkpoint this run is about, and which one that was made from. Raises:
        UserError where it is about another one already.
        """
        found = ParentPath(path=self._said(path), fingerprint=fingerprint)
        if self.record.parent == found and self.record.original == original:
            return
        with self.locked():
            self._check_parent(path, fingerprint)
            self._save(replace(self.record, parent=found, original=original))

    def add_step(self, row: StepRow) -> None:
        """Record that a step has finished, in place of its row and those after it."""
        with self.locked():
            before = [step for step in self.record.steps or () if step.number < row.number]
            self._save(replace(self.record, steps=(*before, row)))

    def _said(self, path: Path) -> str:
        """A path in full, or from this folder on where it is in the same run: that may be moved."""
        whole, here = path.resolve(), self.path.resolve()
        run = here.parent.parent if here.parent.name == STEPS else here
        return os.path.relpath(whole, here) if run in whole.parents else str(whole)

    def _check_parent(self, path: Path, fingerprint: str) -> None:
        known = self.record.parent
        if known is not None and known.fingerprint != fingerprint:
            same = known.path == self._said(path)
            why = ": this one's weights or config.json were changed since" if same else ""
            raise UserError(
                f"The run directory {self.path} belongs to another checkpoint{why}.",
                got=f"{path} (fingerprint {fingerprint})",
                allowed=f"{known.path} (fingerprint {known.fingerprint})",
                next="Name another run directory with job.run, or delete this one.",
            )

    def is_done(self, stage: str, key: str) -> bool:
        """Whether a stage finished with exactly these inputs."""
        done = self.record.stages[stage]
        return done is not None and done.key == key

    def key(self, stage: str) -> str:
        """The inputs' hash a stage finished with. Raises: UserError where it has not run."""
        done = self.record.stages[stage]
        if done is None:
            raise UserError(
                f"The stage {stage!r} has not run in {self.path}.",
                got=", ".join(self.record.stages.names) or "no stage yet",
                allowed="score, then search, then distill, in one run directory",
                next=f"Run minipuzzle {stage} first.",
            )
        return done.key

    def mark(self, done: Stage) -> None:
        """Record that a stage has finished now."""
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with self.locked():
            stages = self.record.stages.having(replace(done, finished=now))
            self._save(replace(self.record, stages=stages))

    def unmark(self, stage: str) -> None:
        """What a stage made is about to be replaced: killed halfway, it must not pass for what was
        marked.
        """
        with self.locked():
            if self.record.stages[stage] is not None:
                self._save(replace(self.record, stages=self.record.stages.lacking(stage)))

    def stage(self, kind: type[S]) -> S:
        """What a finished stage recorded. Raises: UserError where it has not run."""
        self.key(kind.name)
        done = self.record.stages[kind.name]
        assert isinstance(done, kind)
        return done

    def record_command(self, command: str, seconds: float) -> None:
        """Append to the list of commands that the report shows."""
        if not self.writes:
            return
        file = self.path / "commands.json"
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with self.locked():
            shown = command.encode(errors="backslashreplace").decode()  # names need not be UTF-8
            row = CommandRow(command=shown, seconds=round(seconds, 1), date=now)
            CommandLog.load(file).with_row(row).save(file)

    def _read(self) -> None:
        if self._file.exists():
            self.record = RunRecord.load(self._file)

    def _save(self, record: RunRecord) -> None:
        self.record = record
        if self.writes:
            record.save(self._file)
