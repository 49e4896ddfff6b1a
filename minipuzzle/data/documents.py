"""Documents out of text, JSON lines and parquet files, compressed or not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from minipuzzle.data.files import (
    OPENERS,
    data_files,
    encodable,
    excerpt,
    file_format,
    open_data,
    seems,
)
from minipuzzle.data.json_lines import half_a_character, json_lines, text_field
from minipuzzle.data.rows import is_chat, messages_of, pair_of, parquet_file, rows
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
    """The documents of one file, in order, empty ones left out; perhaps none. Of conversations
    what is said in them, without a template. Raises: UserError as ``read_documents``.
    """
    read = _said if is_chat(path) else READERS[file_format(path)]
    return (document for document in read(path) if document.strip())


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
        where = f"Line {number} of {path}"
        yield text_field(where, row, "text", '{"text": "..."} on each line')


def _said(path: Path) -> Iterator[str]:
    for where, row in rows(path):
        if (pair := pair_of(where, row)) is not None:
            yield "".join(pair)
            continue
        messages, _ = messages_of(where, row)
        contents = [message.get("content") for message in messages]
        said = "\n\n".join(text for text in contents if isinstance(text, str))
        if not encodable(said):
            raise half_a_character(where)
        yield said


def _parquet(path: Path) -> Iterator[str]:
    with parquet_file(path) as file:
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
