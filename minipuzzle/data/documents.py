"""Documents out of text, JSON lines and parquet files, compressed or not."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from minipuzzle.errors import UserError

SEPARATOR = "\n\n\f\n"
"""Between the documents of a text file; a file without it is one document."""

OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {
    ".xz": lambda path: cast(IO[bytes], lzma.open(path)),
    ".gz": lambda path: cast(IO[bytes], gzip.open(path)),
}
FORMATS = (".txt", ".jsonl", ".parquet")
ALLOWED = ".txt, .jsonl (a \"text\" field), each also .xz or .gz, .parquet (a \"text\" column), or a folder of them"


def data_files(path: Path) -> list[Path]:
    """The files of a text: itself, or all known ones in the folder, sorted by name. Raises: UserError for none."""
    if not path.exists():
        raise UserError("There is no such text.", got=path, allowed=ALLOWED, next="Check the path.")
    found = sorted(p for p in path.iterdir() if _format(p)) if path.is_dir() else [path] if _format(path) else []
    if not found:
        raise UserError(f"{path} is not a text that we read.", got=path.suffix or "no suffix", allowed=ALLOWED,
                        next="Convert or rename it.")  # fmt: skip
    return found


def read_documents(path: Path) -> Iterator[str]:
    """The documents of a file or folder, in order, empty ones left out.

    Raises: UserError for a missing file, an unknown format, a row without text, or no text at all.
    """
    some = False
    for file in data_files(path):
        reader = {".txt": _text, ".jsonl": _jsonl, ".parquet": _parquet}[_format(file)]
        for document in reader(file):
            if document.strip():
                some = True
                yield document
    if not some:
        raise UserError(f"{path} holds no text.", got="nothing but white space", allowed="at least one document",
                        next="Name another file.")  # fmt: skip


def _format(path: Path) -> str:
    name = path.with_suffix("").suffix if path.suffix in OPENERS else path.suffix
    return name if name in FORMATS else ""


def _open(path: Path) -> IO[bytes]:
    return OPENERS[path.suffix](path) if path.suffix in OPENERS else path.open("rb")


def _text(path: Path) -> Iterator[str]:
    with _open(path) as file:
        try:
            yield from file.read().decode("utf-8").split(SEPARATOR)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8.", got=error, allowed="UTF-8 text", next="Convert it.") from error


def _jsonl(path: Path) -> Iterator[str]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield str(json.loads(line)["text"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UserError(
                    f"Line {number} of {path} has no text.", got=line[:60].decode(errors="replace").strip(),
                    allowed='{"text": "..."} on each line', next="Mend or remove that line.",
                ) from error  # fmt: skip


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
        for batch in file.iter_batches(columns=["text"]):
            yield from (text for text in batch.column(0).to_pylist() if text)
