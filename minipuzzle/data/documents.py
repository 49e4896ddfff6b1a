"""Documents out of text, JSON lines and parquet files, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from minipuzzle.errors import UserError

SEPARATOR = "\n\n\f\n"
"""Between the documents of a text file; a file without it is one document."""

OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {
    ".xz": lambda path: cast(IO[bytes], lzma.open(path)),  # noqa: SIM115
    ".bz2": lambda path: cast(IO[bytes], bz2.open(path)),  # noqa: SIM115
    ".gz": lambda path: cast(IO[bytes], gzip.open(path)),  # noqa: SIM115
}
READ_AT_ONCE = 1 << 25
ALLOWED = ".txt, .jsonl (a \"text\" field), each also .xz, .bz2 or .gz, .parquet (a \"text\" column), or a folder of them"


def data_files(path: Path) -> list[Path]:
    """The files of a text: itself, or all known ones in the folder, sorted by name. Raises: UserError for none."""
    if not path.exists():
        raise UserError("There is no such text.", got=path, allowed=ALLOWED, next="Check the path.")
    candidates = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    found = [p for p in candidates if _format(p)]
    if not found:
        raise UserError(f"{path} is not a text that we read.", got=path.suffix or "no suffix", allowed=ALLOWED,
                        next="Convert or rename it.")  # fmt: skip
    return found


def read_documents(path: Path) -> Iterator[str]:
    """The documents of a file or folder, in order, empty ones left out.

    Raises: UserError for a missing or damaged file, an unknown format, a row without text, or no text at all.
    """
    some = False
    for file in data_files(path):
        for document in file_documents(file):
            some = True
            yield document
    if not some:
        raise UserError(f"{path} holds no text.", got="nothing but white space", allowed="at least one document",
                        next="Name another file.")  # fmt: skip


def file_documents(path: Path) -> Iterator[str]:
    """The documents of one file, in order, empty ones left out; perhaps none. Raises: UserError as ``read_documents``."""
    try:
        yield from (document for document in READERS[_format(path)](path) if document.strip())
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8.", got=error, allowed="UTF-8 text", next="Convert it.") from error
    # a cut or foreign file: pyarrow's errors are ValueErrors, gzip's are OSErrors
    except (ValueError, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path} cannot be read.", got=error, allowed=ALLOWED,
                        next="The file is damaged or misnamed: copy or convert it again.") from error  # fmt: skip


def text_name(path: Path) -> str:
    """The file's name without the endings of its format: "prose.val.txt.xz" is "prose.val"."""
    return (path.with_suffix("") if path.suffix.lower() in OPENERS else path).stem


def _format(path: Path) -> str:
    """.txt, .jsonl or .parquet, or "" for a name that is none of them."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return suffix
    inner = path.with_suffix("").suffix.lower() if suffix in OPENERS else suffix
    return inner if inner in (".txt", ".jsonl") else ""


def open_data(path: Path) -> IO[bytes]:
    """The uncompressed bytes of a file."""
    suffix = path.suffix.lower()
    return OPENERS[suffix](path) if suffix in OPENERS else path.open("rb")


def _text(path: Path) -> Iterator[str]:
    separator, rest = SEPARATOR.encode(), b""
    with open_data(path) as file:
        while part := file.read(READ_AT_ONCE):
            *whole, rest = (rest + part).split(separator)
            yield from (document.decode() for document in whole)
    yield rest.decode()


def _jsonl(path: Path) -> Iterator[str]:
    with open_data(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (json.JSONDecodeError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise UserError(
                    f"Line {number} of {path} has no text.", got=line[:60].decode(errors="replace").strip(),
                    allowed='{"text": "..."} on each line', next="Mend or remove that line.",
                )  # fmt: skip
            yield text


def _parquet(path: Path) -> Iterator[str]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError("Parquet needs pyarrow, which is not installed.", got=path, allowed=ALLOWED,
                        next="pip install pyarrow, or convert the file to .jsonl.") from error  # fmt: skip
    with parquet.ParquetFile(path) as file:
        if "text" not in file.schema_arrow.names:
            raise UserError(f"{path} has no text column.", got=", ".join(file.schema_arrow.names),
                            allowed="a column named text", next="Rename the column.")  # fmt: skip
        row = 0
        for batch in file.iter_batches(columns=["text"]):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str):
                    raise UserError(f"Row {row} of {path} has no text.", got=repr(text), allowed="a string in each row",
                                    next="Mend or remove that row.")  # fmt: skip
                yield text
                row += 1


READERS = {".txt": _text, ".jsonl": _jsonl, ".parquet": _parquet}
