"""Documents out of text, JSON lines and parquet files, compressed or not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from minipuzzle.data.files import (
    OPENERS,
    data_files,
    excerpt,
    file_format,
    open_data,
    reading,
    seems,
)
from minipuzzle.data.json_lines import json_lines, text_field
from minipuzzle.errors import UserError

SEPARATOR = "\n\n\f\n"
"""Between the documents of a text file; a file without it is one document. Lines may end as on
Windows.
"""

READ_AT_ONCE = 1 << 25
_SEPARATOR = re.compile(rb"\r?\n\r?\n\f\r?\n")


def read_documents(path: Path) -> Iterator[str]:
    """The documents of a file or folder, in order, empty ones left out.

    Raises: UserError for a missing or damaged file, an unknown format, a row without text, or no
    text at all.
    """
    some = False
    for file in data_files(path):
        for document in file_documents(file):
            some = True
            yield document
    if not some:
        raise UserError(
            f"{path} holds no text.",
            got="nothing but white space",
            allowed="at least one document",
            next="Name another file.",
        )


def file_documents(path: Path) -> Iterator[str]:
    """The documents of one file, in order, empty ones left out; perhaps none. Raises: UserError as
    ``read_documents``.
    """
    return (document for document in READERS[file_format(path)](path) if document.strip())


def text_name(path: Path) -> str:
    """The file's name without the endings of its format: "prose.val.txt.xz" is "prose.val"."""
    return (path.with_suffix("") if path.suffix.lower() in OPENERS else path).stem


def _text(path: Path) -> Iterator[str]:
    rest = b""
    with open_data(path) as file:
        while part := file.read(READ_AT_ONCE):
            if b"\0" in part:
                raise UserError(
                    f"{path} is not plain text.",
                    got=f"NUL bytes{seems(path)}",
                    allowed="UTF-8 text",
                    next="Convert it; text in UTF-16 must become UTF-8.",
                )
            *whole, rest = _SEPARATOR.split(rest + part)
            yield from (document.decode() for document in whole)
        yield rest.decode()


def _jsonl(path: Path) -> Iterator[str]:
    for number, row in json_lines(path):
        yield text_field(path, number, row, "text", '{"text": "..."} on each line')


def _parquet(path: Path) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(
            "Parquet needs pyarrow, which is not installed.",
            got=path,
            allowed="pyarrow",
            next="pip install pyarrow, or convert the file to .jsonl.",
        ) from error
    with reading(path):
        try:
            yield from _text_column(path, parquet)
        except pyarrow.ArrowException as error:  # not all of them are ValueErrors
            raise ValueError(error) from error


def _text_column(path: Path, parquet: ModuleType) -> Iterator[str]:
    with parquet.ParquetFile(path) as file:
        if "text" not in file.schema_arrow.names:
            raise UserError(
                f"{path} has no text column.",
                got=", ".join(file.schema_arrow.names),
                allowed="a column named text",
                next="Rename the column.",
            )
        row = 0
        for batch in file.iter_batches(columns=["text"]):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str):
                    raise UserError(
                        f"Row {row} of {path} has no text.",
                        got=f"{type(text).__name__}: {excerpt(repr(text))}",
                        allowed="a string in each row",
                        next="Fix or remove that row, or cast the column to strings.",
                    )
                yield text
                row += 1


READERS = {".txt": _text, ".jsonl": _jsonl, ".parquet": _parquet}
