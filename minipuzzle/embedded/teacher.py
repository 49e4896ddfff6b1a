"""The embedded teacher as a folder. Its weights ship compressed (7.3 MB for 11.1) and are unpacked
once into the user's cache.
"""

from __future__ import annotations

import os
import shutil
import zlib
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from minipuzzle.errors import UserError
from minipuzzle.settings.data import EMBEDDED
from minipuzzle.temporary import temporary_beside

SHIPPED = Path(__file__).parent / "teacher"
PACKED = "model.safetensors.z"


def unpacked(packed: bytes) -> bytes:
    """The file, whose 16-bit words ``packed`` has in two halves: the exponents of all BF16 numbers,
    which Huffman codes make 2.6 bits of, then their signs and fractions, which stay 8.
    """
    exponents, rest = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(2, -1).astype("<u2")
    return (rest >> 7 << 15 | exponents << 7 | rest & 127).tobytes()


def checkpoint_path(named: Path) -> Path:
    """The folder that a command line means: the name "embedded" is the demo's teacher."""
    return teacher_path() if str(named) == EMBEDDED else named


@cache
def teacher_path() -> Path:
    """The folder of the embedded teacher, an ordinary checkpoint.

    Raises: UserError where the user's cache cannot be written.
    """
    files = sorted(SHIPPED.iterdir())
    digest = sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "minipuzzle" / f"teacher-{digest.hexdigest()[:12]}"
    if folder.is_dir():  # renamed into place, so it is whole
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(folder)
        temporary.mkdir()
        try:
            for file in files:
                if file.name == PACKED:
                    (temporary / file.stem).write_bytes(unpacked(file.read_bytes()))
                else:
                    shutil.copyfile(file, temporary / file.name)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if folder.is_dir():  # another process was faster
            return folder
        raise UserError(
            f"Could not unpack the embedded teacher into {folder.parent}.",
            got=error.strerror or str(error),
            allowed="a writable folder with 12 MB free",
            next="Name one with the environment variable XDG_CACHE_HOME.",
        ) from error
    return folder
