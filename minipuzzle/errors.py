"""The three sorts of errors, by whose fault it is.

``UserError``: the input is wrong, a file, an option or the machine; it says in four parts what went
wrong, what we got, what is allowed and what to do next. ``InternalError``: minipuzzle is wrong.
Python's own ``ValueError``: the caller of the Python API is wrong.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path

SHOWN = 600
"""Characters of a value that are shown: a wrong one may be a whole file."""


class UserError(Exception):
    """A mistake the user can fix. The command line prints its four parts and exits with code 2."""

    def __init__(self, what: str, *, got: object, allowed: object, next: str) -> None:
        super().__init__(what)
        self.what = _shown(what)
        self.got = _shown(got)
        self.allowed = _shown(allowed)
        self.next = _shown(next)

    def __reduce__(self) -> tuple[object, ...]:  # a process of a pool sends its error home
        return partial(UserError, got=self.got, allowed=self.allowed, next=self.next), (self.what,)

    def reword(self, said: Callable[[str], str]) -> None:
        """Say its parts in other words: on the command line a setting has a flag."""
        self.what, self.got, self.allowed, self.next = map(
            said, (self.what, self.got, self.allowed, self.next)
        )

    def __str__(self) -> str:
        return (
            f"{self.what}\n  got:     {self.got}\n  allowed: {self.allowed}\n  next:    {self.next}"
        )


class InternalError(Exception):
    """A fault of minipuzzle: a result that is not what was planned, or an error nobody foresaw.

    The command line prints the traceback and what to attach to a report, and exits with code 70.
    ``run`` is the run directory the command worked in, where it had one.
    """

    def __init__(self, what: str, run: Path | None = None) -> None:
        super().__init__(what)
        self.run = run

    @staticmethod
    def of(error: Exception, run: Path | None = None) -> InternalError:
        """An error nobody foresaw, which becomes the cause."""
        made = InternalError(_shown(f"{type(error).__name__}: {error}"), run)
        made.__cause__ = error
        return made


def explained(error: BaseException) -> UserError | None:
    """The four parts of what the machine refused: files, memory, text, nesting; else None, ours.

    Loaders say more of their own files; this is the one place for what they do not foresee.
    """
    if isinstance(error, OSError):
        return _refused(error)
    if isinstance(error, MemoryError) or _is_torch_memory(error):
        return UserError(
            "There is not enough memory.",
            got=str(error).split("\n")[0] or "an allocation failed",
            allowed="what this machine and its control group have free",
            next="Lower the batch or the length of blocks, stop other programs, or take a larger"
            " machine.",
        )
    if isinstance(error, RecursionError):
        return UserError(
            "A file or an option is nested too deeply.",
            got=error,
            allowed="a few levels of brackets or links",
            next="Look at the file that the command named last, and write it anew.",
        )
    if isinstance(error, UnicodeError):
        return UserError(
            "A text is not valid Unicode.",
            got=_around(error),
            allowed="UTF-8 without lone surrogates",
            next="Save the file as UTF-8 (iconv -t UTF-8), or fix the name.",
        )
    if isinstance(error, EOFError):
        return UserError(
            "A file ends too early.",
            got=error or "the end of the file",
            allowed="the whole file",
            next="Restore it, fetch it again, or run the stage again that wrote it.",
        )
    if isinstance(error, RuntimeError) and "Symlink loop" in str(error):  # Path.resolve's OSError
        return UserError(
            "A link leads to itself.", got=error, allowed="a path", next="Fix the link."
        )
    if isinstance(error, ValueError) and "null byte" in str(error):  # Python's own OSError
        return UserError(
            "A path holds a zero byte.", got=error, allowed="a path", next="Fix the name."
        )
    return None


_ADVICE = {
    errno.ENOENT: ("a path that exists", "Check the path, or run the stage first that writes it."),
    errno.EACCES: (
        "a path that you may read and write",
        "Change its permissions, or name another.",
    ),
    errno.EPERM: ("a path that you may change", "Change its permissions, or name another."),
    errno.EISDIR: ("a file, not a folder", "Name a file, or move the folder away."),
    errno.ENOTDIR: ("a path whose parts are folders", "Name another path, or move the file away."),
    errno.EEXIST: ("a path that is free", "Name another path, or move what is there away."),
    errno.ENOTEMPTY: ("an empty folder", "Name another path, or move what is there away."),
    errno.ENOSPC: ("a disk with enough space", "Free space, or name another folder."),
    errno.EDQUOT: ("space within your quota", "Free space, or name another folder."),
    errno.EROFS: ("a file system that can be written", "Name another folder."),
    errno.ENAMETOOLONG: ("a shorter name", "Name a shorter path."),
    errno.ELOOP: ("a link that leads to a file", "Fix the link, or name the file itself."),
    errno.EMFILE: ("fewer open files", "Raise the limit: ulimit -n 65536."),
    errno.ENFILE: ("fewer open files", "Close other programs, or raise the machine's limit."),
    errno.EIO: ("a disk that answers", "Look at the disk; copy the file elsewhere if you can."),
}


def _refused(error: OSError) -> UserError:
    unknown = "a file system that answers", "Look at the path and the disk, and try again."
    allowed, advice = _ADVICE.get(error.errno or 0, unknown)
    said = error.strerror or str(error) or type(error).__name__
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if not named:
        return UserError("The operating system refused.", got=said, allowed=allowed, next=advice)
    paths = " and ".join(map(_shown, named))
    return UserError(f"Could not use {paths}.", got=said, allowed=allowed, next=advice)


def _is_torch_memory(error: BaseException) -> bool:
    # torch.OutOfMemoryError is a GPU's; the CPU's is a RuntimeError. By name: no torch is loaded
    # here.
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _around(error: UnicodeError) -> str:
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        near = error.object[max(0, error.start - 20) : error.end + 20]
        return f"{near!r}: {error.reason} at position {error.start}"
    return str(error)


def _shown(value: object) -> str:
    """A value as a terminal can show it: not endless, no control characters or lone surrogates."""
    text = str(value)
    if len(text) > SHOWN:
        text = f"{text[: SHOWN // 2]} ... {text[-SHOWN // 4 :]} ({len(text):,} characters)"
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
