"""The only way files are written: beside, fsync, rename; and how they are read. No torch."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minipuzzle.checked import AGAIN, require
from minipuzzle.errors import UserError
from minipuzzle.temporary import temporary_beside

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
LARGEST_TEXT = 1 << 30
"""Bytes. No text file that is read back as a whole comes near: the largest are indices and
tokenizers.
"""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a reader never sees half of it, whatever dies in between.

    Raises: UserError when the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> UserError:
    """The four-part form of an error of the file system."""
    return UserError(
        f"Could not write {path}.",
        got=error.strerror or str(error),
        allowed="a writable folder with enough space",
        next=(
            "Free space or name another run directory with job.run; what was written before is"
            " untouched."
        ),
    )


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable, with a final newline.

    Raises: UserError as ``write_atomic``, and for a text that no reader could encode: a name that
    is not UTF-8.
    """
    text = json.dumps(value, indent=1, default=plain_json)
    try:
        _check_halves(text, value)
    except UnicodeError as error:
        raise UserError(
            f"{path} would hold a name that is not Unicode.",
            got=ascii(str(error)),
            allowed="names in UTF-8",
            next="Rename the file or folder that the command named.",
        ) from error
    write_atomic(path, (text + "\n").encode())


def read_text(path: Path, *, next: str = AGAIN) -> str:
    """A text file as a whole. Raises: UserError where it is missing, no file, unreadable, huge or
    not UTF-8.
    """
    try:
        about = path.stat()
        check_is_file(path, about, next=next)
        if about.st_size > LARGEST_TEXT:
            raise UserError(
                f"{path} is too large.",
                got=f"{about.st_size:,} bytes",
                allowed=f"{LARGEST_TEXT:,} bytes",
                next=next,
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text.", got=error, allowed="UTF-8", next=next) from error
    except OSError as error:
        raise unreadable(path, error, next=next) from error


def check_is_file(path: Path, about: os.stat_result, *, next: str = AGAIN) -> None:
    """Raises: UserError for a folder, and for a pipe or device, which would be waited for."""
    if not stat.S_ISREG(about.st_mode):
        kind = "a folder" if stat.S_ISDIR(about.st_mode) else "a device or a pipe"
        raise UserError(f"{path} is not a file.", got=kind, allowed="a file", next=next)


def unreadable(path: Path, error: OSError, *, next: str = AGAIN) -> UserError:
    """The four-part form of an error of the file system, in reading."""
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"{path.name} is missing.",
            got=path,
            allowed="a file that an earlier stage wrote",
            next=next,
        )
    return UserError(
        f"{path} cannot be read.",
        got=error.strerror or error,
        allowed="a file that you may read",
        next=next,
    )


def read_json(path: Path, shape: Any = Any, *, next: str = AGAIN) -> Any:
    """The JSON value in a file, of a shape. Raises: UserError where it is missing, broken or of
    another shape.
    """
    return parse_json(read_text(path, next=next), shape, what=str(path), next=next)


def parse_json(text: str, shape: Any = Any, *, what: str, next: str = AGAIN) -> Any:
    """The JSON value in a text; ``what`` names it in errors. Raises: UserError where it is broken
    or of another shape.
    """
    try:
        value = json.loads(text)
        _check_halves(text, value)
    except RecursionError as error:
        raise UserError(
            f"{what} is nested too deeply.", got=error, allowed="JSON of a few levels", next=next
        ) from error
    except ValueError as error:  # no JSON, half a character, or a number of thousands of digits
        raise UserError(
            f"{what} is not valid JSON.", got=error, allowed="JSON", next=next
        ) from error
    return require(value, shape, what=what, next=next)


def _check_halves(text: str, value: Any) -> None:
    # Written as \\ud800: half a character, which nothing can encode unless the other half follows.
    if _SURROGATE.search(text):
        json.dumps(value, default=plain_json, ensure_ascii=False).encode()


def read_arrays(path: Path, *, next: str = AGAIN) -> tuple[dict[str, str], dict[str, NDArray]]:
    """(metadata, tensors) of a small safetensors file. Raises: UserError where it is missing or
    damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_is_file(path, path.stat(), next=next)
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise unreadable(path, error, next=next) from error
    except (
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:  # TypeError: a dtype that numpy has not
        raise UserError(
            f"{path} is damaged.",
            got=error,
            allowed="a safetensors file that minipuzzle wrote",
            next=next,
        ) from error


def plain_json(value: Any) -> Any:
    """``json``'s default for what our files hold: numpy's numbers and paths."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not JSON: {type(value)}")
