"""Names of what is being written, from which anyone can tell whether the process that writes it
still lives. No torch.

What a killed process left half written would otherwise stay for ever, hidden and as large as a
checkpoint.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

WRITING, REPLACED = ".writing", ".replaced"
"""How names end: of something new, and of the old one that gives way to it."""
QUIET_SECONDS = 3600.0
"""Of a process on another machine nothing is known: what it has not touched for so long is taken
for left behind.
"""
DEPTH = 4
"""Folders below a run directory in which something is written: run/distill/<leg>/state/."""
OURS = re.compile(
    r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}(?P<end>\.writing|\.replaced)"
)
NUMBERED = re.compile(r"\.\d+\.writing")
"""A training state or a scoring's: only its own run writes it, so who holds the run directory knows
that it is dead.
"""


def temporary_beside(path: Path, end: str = WRITING) -> Path:
    """A fresh hidden name in the folder of ``path``, with this process in it; what dead ones left
    there for ``path`` goes.

    Raises: OSError where the folder cannot be read.
    """
    sweep_beside(path)
    pid = os.getpid()
    return path.with_name(
        f".{path.name}.{_machine()}-{pid}-{_started(pid) or 0}-{secrets.token_hex(4)}{end}"
    )


def sweep_beside(path: Path) -> int:
    """Remove what dead processes left of writing ``path``; the bytes that were freed."""
    if not path.parent.is_dir():
        return 0
    names = [
        entry.name for entry in os.scandir(path.parent) if entry.name.startswith(f".{path.name}.")
    ]
    found = [
        match for name in names if (match := OURS.fullmatch(name)) and match["name"] == path.name
    ]
    return sum(_clear(path.parent, match) for match in found)


def sweep_run(folder: Path) -> int:
    """Remove what dead processes left anywhere in a run directory that this process holds; the
    bytes that were freed.
    """
    freed = 0
    for place, folders, files in os.walk(folder):
        here = Path(place)
        for name in [*folders, *files]:
            if match := OURS.fullmatch(name):
                freed += _clear(here, match)
            elif NUMBERED.fullmatch(name):
                freed += _remove(here / name)
        deep = len(here.relative_to(folder).parts) >= DEPTH
        folders[:] = [] if deep else [name for name in folders if not name.startswith(".")]
    return freed


def _clear(folder: Path, match: re.Match[str]) -> int:
    left, path = folder / match[0], folder / match["name"]
    with suppress(
        FileNotFoundError, PermissionError
    ):  # somebody else sweeps it too, or it is another user's
        if _lives(match, left):
            return 0
        if match["end"] == REPLACED and not path.exists():
            left.rename(path)  # died between taking the old one away and putting the new one there
            return 0
        return _remove(left)
    return 0


def _remove(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        size = path.lstat().st_size
        path.unlink()
        return size
    size = sum(file.lstat().st_size for file in path.rglob("*"))
    shutil.rmtree(path)
    return size


def _lives(match: re.Match[str], path: Path) -> bool:
    pid = int(match["pid"])
    if match["machine"] != _machine():
        times = [entry.lstat().st_mtime for entry in (path, *path.rglob("*"))]
        return time.time() - max(times) < QUIET_SECONDS
    return pid == os.getpid() or _started(pid) == match["start"]


def _started(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's ticks; None for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]  # a zombie has ended too


@cache
def _machine() -> str:
    """Processes with the same one see each other's numbers: a boot of a machine and, there, a
    container.
    """
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    known = [
        socket.gethostname(),
        boot.read_text() if boot.exists() else "",
        str(space.readlink()) if space.exists() else "",
    ]
    return sha256(" ".join(known).encode()).hexdigest()[:8]
