"""One case after the other, each in a forked child: the imports are paid once."""

import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

import minipuzzle.bars as bars
import minipuzzle.commands._shared as shared
from minipuzzle.cli import main

from .base import command
from .case import Case

PARTS = ("error: ", "\n  got: ", "\n  allowed: ", "\n  next: ")
SECONDS = 40
BAD = ("traceback", "hang", "signal", "other")


@dataclass
class Outcome:
    """``kind``: four parts, usage (of typer), done, or one of BAD. ``left``: hidden files and files
    outside.
    """

    group: str
    name: str
    kind: str
    seconds: float
    said: str = ""
    where: str = ""
    left: list[str] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether something is to be mended."""
        return self.kind in BAD or bool(self.left)

    def row(self) -> dict:
        """For JSON."""
        return asdict(self)


def warm() -> None:
    """Import what commands import, so that children have it."""
    import pyarrow.parquet  # noqa: F401
    import yaml  # noqa: F401

    import minipuzzle.pipeline
    import minipuzzle.report.card
    import minipuzzle.report.page
    import minipuzzle.runs.adapt
    import minipuzzle.runs.bench
    import minipuzzle.runs.generate
    import minipuzzle.runs.pretrain
    import minipuzzle.runs.profile  # noqa: F401

    nowhere = Path("/nowhere")
    for words in (
        ("inspect", nowhere),
        ("prune", "--run", nowhere),
        ("export", nowhere),
        ("merge", nowhere, nowhere),
    ):
        command(words, Path.cwd())


def run_case(case: Case, base: Path, work: Path, seconds: float = SECONDS) -> Outcome:
    """Give a case's command in a fresh folder below ``work``, which is emptied."""
    shutil.rmtree(work, ignore_errors=True)
    folder = work / "in"
    folder.mkdir(parents=True)
    shutil.copytree(base / "ck", folder / "ck")
    (folder / "text.txt").write_bytes((base / "text.txt").read_bytes()[:6000])
    for change in case.changes:
        change(folder)
    before, started = files(work), time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(case, folder, work)
    status = _wait(pid, seconds)
    took = time.monotonic() - started
    said = (work / "stderr").read_text(errors="replace") if (work / "stderr").exists() else ""
    new = files(work) - before - {"stdout", "stderr"}
    left = sorted(
        p
        for p in new
        if not p.startswith("in/") or any(part.startswith(".") for part in p.split("/"))
    )
    kind = _kind(status, said)
    lines = said.strip().splitlines() or [""]
    first = next((line for line in lines if line.startswith("error: ")), lines[-1])
    frames = re.findall(r'File "[^"]*/(minipuzzle/[^"]*)", line (\d+)', said)
    where = ":".join(frames[-1]) if frames and kind in BAD else ""
    return Outcome(
        case.group,
        case.name,
        kind,
        round(took, 2),
        (lines[-1] if kind in BAD else first)[:300],
        where,
        left,
    )


def files(folder: Path) -> set[str]:
    """Every path below a folder that is no folder itself."""
    return {
        os.path.relpath(os.path.join(at, name), folder)
        for at, _, names in os.walk(folder)
        for name in names
    }


def _child(case: Case, folder: Path, work: Path) -> None:
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        torch.set_num_threads(1)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(work / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        bars.console._file, shared.out._file = sys.stderr, sys.stdout
        sys.argv = ["minipuzzle", *map(str, case.words)]
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 255)


def _wait(pid: int, seconds: float) -> int | None:
    """The exit code, negative for a signal; None for a child that had to be killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.004)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _kind(status: int | None, said: str) -> str:
    if status is None:
        return "hang"
    if status < 0:
        return "signal"
    if "Traceback (most recent call last)" in said:
        return "traceback"
    if status == 0:
        return "done"
    if status == 2 and all(part in said for part in PARTS):
        return "four parts"
    return "usage" if status == 2 and "Usage: " in said else "other"


def run_all(cases: Iterable[Case], base: Path, work: Path) -> list[Outcome]:
    """The outcomes of all cases."""
    return [run_case(case, base, work) for case in cases]
