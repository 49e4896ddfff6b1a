"""What commands share: printing, and the record of what was run."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from minipuzzle.errors import InternalError, UserError, explained
from minipuzzle.interrupt import AtOnce, stoppable, tell
from minipuzzle.rundir import RunDir
from minipuzzle.settings import Data

if TYPE_CHECKING:
    from minipuzzle.checkpoint import Checkpoint
    from minipuzzle.runs.job import Job

FIRST = os.environ.get("RANK", "0") == "0"  # of the processes of a torchrun only the first prints
out = Console(highlight=False, width=None if sys.stdout.isatty() else 132, quiet=not FIRST)

CTRL_C = 130
"""The exit code of who was stopped so: 128 and the signal's number, as shells have it."""


def make_job(run: Path, checkpoint: Path | None, data: Data, device: str) -> Job:
    """The job of a run directory; imports torch."""
    from minipuzzle.runs.job import Job

    return Job(RunDir(run), checkpoint=checkpoint, data=data, device=device)


def config_only(path: Path) -> bool:
    """Whether a folder holds a config.json and no weights."""
    return (path / "config.json").is_file() and not any(path.glob("*.safetensors*"))


def student(run: Path) -> Path:
    """The student of a run. Raises: UserError where there is none."""
    if not (run / "student" / "config.json").is_file():
        raise UserError(
            "There is no student in this run directory.",
            got=run,
            allowed="a checkpoint, or a run with a student",
            next="Name a checkpoint before anything else, or run minipuzzle distill first.",
        )
    return run / "student"


@contextmanager
def command(run: Path) -> Iterator[None]:
    """Work alone in the run directory; record the command line and its seconds there once it has
    succeeded.

    SIGTERM and Ctrl-C end it with a line that says how to go on. Raises: InternalError, which knows
    the run directory, in place of what nobody foresaw.
    """
    started, folder = time.monotonic(), RunDir(run)
    with _faults_of(run), _without_traceback(), folder.locked(), stoppable():
        yield
        words = ["minipuzzle", *sys.argv[1:]]
        folder.record_command(shlex.join(words), time.monotonic() - started)


@contextmanager
def _faults_of(run: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, typer.Exit, typer.Abort):
        raise
    except InternalError as error:
        error.run = run
        raise
    except Exception as error:
        if explained(error) is not None:
            raise
        raise InternalError.of(error, run) from error


@contextmanager
def _without_traceback() -> Iterator[None]:
    try:
        yield
    except AtOnce:
        tell("stopped at once; the same command goes on from what was saved last")
        sys.stdout.flush()
        os._exit(CTRL_C)  # not even for a thread that writes
    except KeyboardInterrupt:
        sys.exit(CTRL_C)


def sizes(checkpoint: Checkpoint) -> dict[str, int]:
    """For JSON: its parameters, and where these are not all those that one token is computed
    with.
    """
    active = checkpoint.architecture.active_if_fewer
    return {"parameters": checkpoint.parameters} | ({} if active is None else {"active": active})


def print_json(value: Any) -> None:
    """JSON on standard output, from the first process only."""
    if FIRST:
        print(json.dumps(value, indent=1, default=str))
