"""The files of a text: which ones a path means, their uncompressed bytes, their JSON lines, and
what is wrong with them.

Every fault of such a file is told here, once, whoever reads it.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from minipuzzle.errors import UserError

log = logging.getLogger(__name__)

OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {
    ".xz": lambda path: cast(IO[bytes], lzma.open(path)),  # noqa: SIM115
    ".bz2": lambda path: cast(IO[bytes], bz2.open(path)),  # noqa: SIM115
    ".gz": lambda path: cast(IO[bytes], gzip.open(path)),  # noqa: SIM115
}
NOT_OPENED = (".zst", ".zstd", ".lz4", ".lzma", ".br", ".z", ".zip", ".7z", ".tar", *OPENERS)
FORMATS = (".txt", ".jsonl", ".parquet")
ALLOWED = (
    '.txt, .jsonl (a "text" field), each also .xz, .bz2 or .gz, .parquet (a "text" column), '
    "or a folder of them, or of such folders"
)
MOST_FOLDERS = 10_000
"""Below one: more are no text, but a disk.
"""
BOM = b"\xef\xbb\xbf"
STARTS = {
    b"\xff\xfe": "UTF-16 or UTF-32",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "zip",
    b"PAR1": "parquet",
}
"""First bytes of files that are often named as if they were plain text."""

_ABOUT = re.compile(
    r"(licen[sc]es?|eula|copying|copyright|notices?|disclaimer|readme|changelog|authors|manifest"
    r"|contributors|contributing|citation|code[-_]of[-_]conduct|third[-_]party|requirements|vocab"
    r"|merges)([-_. ].*)?",
    re.IGNORECASE,
)
"""Names of .txt files that are about a folder's texts and no text themselves."""


def data_files(path: Path) -> list[Path]:
    """The files of a text: itself, or all known ones in the folder and those below it, sorted by
    name; see ``_counts`` for those left out.

    Raises: UserError where there are none, or too many folders, and for what cannot be read: a link
    to nothing, a pipe, an unknown compression.
    """
    with reading(path):
        if not _is_folder(path):
            return [_regular(path)]
        found = [_regular(p) for p in _below(path) if _counts(p)]
        if not found:
            raise _nothing_in(path)
    return found


def say_left_out(path: Path) -> None:
    """Print which visible files of a folder are no part of its text, and in which folders below it
    the others lie.
    """
    if path.is_dir():
        taken = data_files(path)
        others = [str(p.relative_to(path)) for p in _below(path) if p not in set(taken)]
        if others:
            line = f"text of {path}: {len(taken)} of {len(taken) + len(others)} entries; "
            line += f"not read: {excerpt(', '.join(others), 200)}"
            log.info(line)
        below = sorted({str(p.parent.relative_to(path)) for p in taken if p.parent != path})
        if below:
            log.info(f"text of {path}: with that in {excerpt(', '.join(below), 200)}")


def _below(path: Path) -> list[Path]:
    """The visible files in a folder and in those below it, and links to folders, which are not
    followed.
    """
    found = []
    for number, (folder, folders, files) in enumerate(os.walk(path, onerror=_raise)):
        if number == MOST_FOLDERS:
            raise UserError(
                f"{path} holds too many folders to be a text.",
                got=f"over {MOST_FOLDERS:,}",
                allowed=ALLOWED,
                next="Name the folder that the texts lie in.",
            )
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        found += [Path(folder) / name for name in files + links if not name.startswith(".")]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def file_format(path: Path) -> str:
    """.txt, .jsonl or .parquet, or "" for a name that is none of them."""
    suffix = path.suffix.lower()
    inner = path.with_suffix("").suffix.lower() if suffix in OPENERS else suffix
    return inner if inner in FORMATS[: 2 if suffix in OPENERS else 3] else ""


@contextmanager
def open_data(path: Path) -> Iterator[IO[bytes]]:
    """The uncompressed bytes of a file, behind the byte order mark if it has one. Raises: as
    ``reading``.
    """
    with reading(path), OPENERS.get(path.suffix.lower(), _plain)(path) as file:
        if file.read(len(BOM)) != BOM:
            file.seek(0)
        yield file


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Where a file is read: what is wrong with it becomes a UserError."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            "There is no such text.",
            got=error.filename or path,
            allowed=ALLOWED,
            next="Check the path.",
        ) from error
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error
    # pyarrow's errors are ValueErrors, those of gzip and bz2 are OSErrors without a number
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f"{path} cannot be read.",
                got=error.strerror,
                allowed="a file that you may read",
                next="Check its permissions and its disk.",
            ) from error
        raise UserError(
            f"{path} cannot be read.",
            got=error,
            allowed=ALLOWED,
            next="The file is damaged or misnamed: copy or convert it again.",
        ) from error


def encodable(text: str) -> bool:
    """Whether a text is Unicode throughout, without half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def excerpt(text: str, most: int = 60) -> str:
    """The start of a text as one printable line."""
    plain = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return (plain[:most] + "..." if len(text) > most else plain).strip()


def _plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _is_folder(path: Path) -> bool:
    path.stat()  # is_dir() is silent where this raises
    return path.is_dir()


def _regular(path: Path) -> Path:
    """A file that can be read to its end. Raises: UserError for anything else; OSError for a link
    to nothing.
    """
    if not file_format(path):
        raise _unknown(path, path.suffix or "no suffix")
    path.stat()
    if not path.is_file():
        raise _unknown(path, "neither a file nor a folder")
    return path


def _unknown(path: Path, got: str) -> UserError:
    return UserError(
        f"{path} is not a text that we read.",
        got=got,
        allowed=ALLOWED,
        next="Convert or rename it; a README or licence counts where it is named itself.",
    )


def _counts(path: Path) -> bool:
    """Whether something in a folder belongs to its texts: not what is hidden (as copies of editors
    and the ``._`` files of macOS are), not a licence or the like, and of a format that we read, or
    would if it were not compressed another way.
    """
    if path.name.startswith("."):
        return False
    if file_format(path):
        return file_format(path) != ".txt" or not _ABOUT.fullmatch(path.name)
    return path.suffix.lower() in NOT_OPENED and any(
        s.lower() in FORMATS for s in path.suffixes[-3:-1]
    )


def _nothing_in(path: Path) -> UserError:
    names = ", ".join(sorted(p.name for p in path.iterdir() if not p.name.startswith(".")))
    return _unknown(path, f"a folder of {excerpt(names, 200)}" if names else "an empty folder")


def not_utf8(path: Path, error: UnicodeDecodeError, line: int | None = None) -> UserError:
    where = "" if line is None else f"Line {line} of "
    return UserError(
        f"{where}{path} is not UTF-8.",
        got=f"{error}{seems(path)}",
        allowed="UTF-8 text",
        next="Convert it, such as with iconv -f latin1 -t utf-8, or correct its name.",
    )


def seems(path: Path) -> str:
    """What the first bytes of a file named as plain text say that it is, in brackets, or ""."""
    with _plain(path) as file:
        start = file.read(6)
    kinds = [kind for magic, kind in STARTS.items() if start.startswith(magic)]
    return f" (it begins as {kinds[0]})" if kinds and path.suffix.lower() in FORMATS else ""
