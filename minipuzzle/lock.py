"""One command at a time in a run directory: a lock of the kernel, which ends with the process that
holds it. No torch.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from minipuzzle.artifacts import disk_error
from minipuzzle.errors import UserError

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems answer that have no locks: NFS without lockd, Lustre mounted without flock."""


@dataclass
class Held:
    """A lock of this process. ``first``: taken just now, not within another of the same thread.
    ``missing``: why the file system gave none, "" where it did.
    """

    handle: int
    thread: int
    first: bool = True
    missing: str = ""


_held: dict[Path, Held] = {}


@contextmanager
def hold(folder: Path) -> Iterator[Held]:
    """Hold the lock of ``folder``, which is made where it is not there; within another ``hold`` of
    this thread, go on.

    The file is gone afterwards, and the folder where it is new and nothing was written in it.
    Raises: UserError where another process or thread holds it, or where nothing can be written
    there.
    """
    path = folder.resolve()
    mine = _held.get(path)
    if mine is not None and mine.thread == threading.get_ident():
        yield Held(mine.handle, mine.thread, first=False, missing=mine.missing)
        return
    if mine is not None:
        raise _taken(path, f"another thread of this process ({os.getpid()})")
    made = [place for place in (path, *path.parents) if not place.exists()]
    try:
        held = _take(path)
    except OSError as error:
        raise disk_error(path / LOCK, error) from error
    _held[path] = held
    try:
        yield held
    finally:
        del _held[path]
        with suppress(OSError):  # a full or vanished disk has been reported by who wrote
            (path / LOCK).unlink(
                missing_ok=True
            )  # still held, so that nobody takes a file without a name
        os.close(held.handle)
        with suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def _take(folder: Path) -> Held:
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # who held it has just removed its empty folder
            continue
        held = Held(handle, threading.get_ident())
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(folder, _holder(handle)) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(handle)
                raise
            held.missing = error.strerror or str(error)
        if _is_at(handle, path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(_about()).encode(), 0)
            return held
        os.close(handle)  # its holder removed it between our opening and locking it


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _about() -> dict[str, object]:
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": now,
        "command": shlex.join(words),
    }


def _holder(handle: int) -> str:
    """Who holds the lock of an open file, which is closed."""
    with os.fdopen(handle, "rb") as file:
        text = file.read()
    try:
        about = json.loads(text)
        return (
            f"process {about['process']} on {about['host']} since {about['since']}:"
            f" {about['command']}"
        )
    except (ValueError, KeyError, TypeError):  # it has locked the file and not yet written
        return "another process"


def _taken(folder: Path, holder: str) -> UserError:
    return UserError(
        f"Another command is at work in the run directory {folder}.",
        got=holder,
        allowed="one command at a time",
        next="Wait until it has ended, or name another run directory with job.run.",
    )


def _forget() -> None:
    """In a forked child: the lock is its parent's alone, and must not live on in the child when the
    parent has died.
    """
    for held in _held.values():
        os.close(held.handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
