"""What identifies weights: the digest of all their bytes, kept in the user's cache as long as the
file is untouched.

A file counts as untouched while its size, times (of its content and of its entry, which no program
can set back) and inode are those of before. Copies and other shardings of the same weights have the
same digests.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minipuzzle.artifacts import read_json, unreadable, write_atomic
from minipuzzle.bars import progress_bar
from minipuzzle.checkpoint.doors import RESTORE
from minipuzzle.checkpoint.header import Entry
from minipuzzle.errors import UserError
from minipuzzle.progress import Progress

log = logging.getLogger(__name__)

PIECE = 1 << 26
"""Bytes hashed at once by a thread; a tensor's digest is that of its pieces' digests, so that large
ones are shared.
"""
READ = 1 << 22
THREADS = 16
KEPT_FROM = 1 << 27
"""Files below this many bytes are hashed anew each time (a tenth of a second), so that small ones
fill no cache.
"""
SETTLED = 2.0
"""Seconds after which a change of a file changes its times for certain, whatever their
resolution.
"""

State = tuple[int, ...]


def state_of(file: Path) -> State:
    """What changes when a file does: (size, mtime_ns, ctime_ns, inode). Raises: UserError where it
    cannot be read.
    """
    try:
        about = file.stat()
    except OSError as error:
        raise unreadable(file, error, next=RESTORE) from error
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def digests(entries: dict[str, Entry]) -> dict[str, str]:
    """The SHA-256 of each tensor's data (in pieces), by its name in the file.

    Read in parallel, with a bar; what is known of an untouched file is not read again.
    Raises: UserError where a file cannot be read, or changes meanwhile.
    """
    files: dict[Path, dict[str, Entry]] = {}
    for name, entry in entries.items():
        files.setdefault(entry.file, {})[name] = entry
    result: dict[str, str] = {}
    large = {file for file in files if state_of(file)[0] >= KEPT_FROM and _cache() is not None}
    with _alone(large):
        for file in large:
            kept = _kept(file)
            if files[file].keys() <= kept.keys():
                result |= {name: kept[name] for name in files[file]}
                del files[file]
        todo = {name: entry for members in files.values() for name, entry in members.items()}
        if not todo:
            return result
        before = {file: state_of(file) for file in files}
        size = sum(entry.nbytes for entry in todo.values())
        if size >= KEPT_FROM:
            with progress_bar("identity of the weights", size, "bytes") as bar:
                new = _hashed(todo, bar)
        else:
            new = _hashed(todo, None)
        for file, members in files.items():
            if state_of(file) != before[file]:
                raise UserError(
                    f"{file} changed while it was read.",
                    got="another size or time",
                    allowed="files at rest",
                    next="Wait until it is written, then run the command again.",
                )
            if file in large:
                _keep(file, before[file], {name: new[name] for name in members})
    return result | new


def _hashed(entries: dict[str, Entry], bar: Progress | None) -> dict[str, str]:
    pieces = [
        (name, e.file, e.start + at, min(PIECE, e.nbytes - at))
        for name, e in entries.items()
        for at in range(0, max(e.nbytes, 1), PIECE)
    ]
    whole = {name: hashlib.sha256() for name in entries}

    def one(piece: tuple[str, Path, int, int]) -> bytes:
        return _piece(*piece[1:])

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for (name, _, _, size), digest in zip(pieces, pool.map(one, pieces), strict=True):
            whole[name].update(digest)
            if bar is not None:
                bar.advance(size)
    return {name: digest.hexdigest() for name, digest in whole.items()}


def _piece(path: Path, start: int, size: int) -> bytes:
    digest, left, buffer = hashlib.sha256(), size, memoryview(bytearray(min(READ, size)))
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while left:
                count = file.readinto(buffer[: min(READ, left)])
                if not count:
                    raise UserError(
                        f"{path} ended early.",
                        got=f"{size - left} of {size} bytes",
                        allowed="the whole tensor",
                        next="Do not change a checkpoint while it is read.",
                    )
                digest.update(buffer[:count])
                left -= count
    except OSError as error:
        raise unreadable(path, error, next=RESTORE) from error
    return digest.digest()


def _cache() -> Path | None:
    """The user's cache; None where there is no home."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "minipuzzle" / "identity" if os.path.isabs(home) else None


def _place(file: Path) -> Path:
    """Where the digests of a file are kept: a few bytes a tensor, replaced when the file
    changes.
    """
    folder = _cache()
    assert folder is not None, "there is no cache folder"
    return folder / f"{hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:32]}.json"


def _kept(file: Path) -> dict[str, str]:
    """The digests kept of a file as it is now; none where it is another one, or what was kept is
    damaged.
    """
    place = _place(file)
    if not place.is_file():
        return {}
    try:
        said = read_json(place, dict[str, Any])
    except UserError:  # damaged or not ours to read: as if it were not there
        return {}
    tensors = said.get("tensors")
    if said.get("state") != list(state_of(file)) or not isinstance(tensors, dict):
        return {}
    return {
        name: digest
        for name, digest in tensors.items()
        if isinstance(digest, str) and len(digest) == 64
    }


def _keep(file: Path, state: State, tensors: dict[str, str]) -> None:
    if (
        max(state[1:3]) / 1e9 > time.time() - SETTLED
    ):  # a change in this very moment might leave the times as they are
        return
    try:
        write_atomic(_place(file), json.dumps({"state": state, "tensors": tensors}).encode())
    except (
        UserError
    ):  # a home that cannot be written, a full disk: the file is hashed again next time
        return


@contextmanager
def _alone(files: set[Path]) -> Iterator[None]:
    """Let one process of a machine hash large files while the others wait for what it keeps."""
    if not files:
        yield
        return
    import fcntl

    lock = _place(min(files)).with_suffix(".lock")
    handle = None
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting: another process reads the same weights")
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # nothing can be kept here, so there is nothing to wait for
        pass
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)
