"""Data sets of Hugging Face's ``datasets``: streamed once into a file of JSON lines, which is then
a text like any other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from minipuzzle.artifacts import disk_error
from minipuzzle.data.rows import CHAT_FIELDS, has_chat, plain
from minipuzzle.errors import UserError
from minipuzzle.temporary import temporary_beside

log = logging.getLogger(__name__)

PREFIX = "hf:"
ALLOWED = "hf:NAME, hf:NAME:CONFIG, hf:NAME:CONFIG:SPLIT, hf:NAME::SPLIT, each also with [:ROWS]"
_NAMED = re.compile(r"hf:([^:\[\]]+)(?::([^:\[\]]*))?(?::([^:\[\]]+))?(?:\[:([0-9]+)\])?")


def fetched(named: str, folder: Path) -> Path:
    """The file in ``folder`` with the rows of a data set, streamed into it where it is not there.

    NAME is one of the hub's or a local folder, the split "train" where none is named; ROWS takes
    the first ones. Of each row "text", or the fields of a conversation, are kept. Raises: UserError
    without ``datasets``, for a data set that cannot be read, or one of other fields.
    """
    match = _NAMED.fullmatch(named)
    if match is None:
        raise UserError(
            "This is no name of a data set.",
            got=named,
            allowed=ALLOWED,
            next="Write it as one of these, with rows as in train[:20000].",
        )
    file = folder / f"hf-{hashlib.sha256(named.encode()).hexdigest()[:16]}.jsonl"
    if file.exists():
        log.info(f"{named}: kept {file}")
        return file
    name, config, split, rows = match.groups()
    stream = _stream(named, name, config or None, split)
    _write(file, named, islice(stream, None if rows is None else int(rows)))
    log.info(f"{named}: {file.stat().st_size:,} bytes of rows in {file}")
    return file


def _stream(named: str, name: str, config: str | None, split: str | None) -> Iterator[Any]:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "Data sets need the package datasets, which is not installed.",
            got=named,
            allowed="datasets",
            next='pip install "minipuzzle[data]", or name a file or folder.',
        ) from error
    try:
        try:
            found = datasets.load_dataset(name, config, split=split or "train", streaming=True)
        except ValueError as error:
            if split or not config or "BuilderConfig" not in str(error):
                raise
            # one name behind that of the data set may be a split
            found = datasets.load_dataset(name, split=config, streaming=True)
        yield from found
    except Exception as error:  # of any library that reads one
        raise UserError(
            f"The data set {named} cannot be read.",
            got=error,
            allowed=ALLOWED,
            next="Check its name, configuration and split, and the network; or name a file.",
        ) from error


def _write(file: Path, named: str, rows: Iterator[Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(file)
        try:
            with temporary.open("x", encoding="utf-8") as opened:
                for row in rows:
                    opened.write(json.dumps(_kept(named, row)) + "\n")
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(file, error) from error


def _kept(named: str, row: dict[str, Any]) -> dict[str, Any]:
    if not has_chat(row) and "text" not in row:
        raise UserError(
            f"The data set {named} has neither text nor conversations.",
            got=", ".join(row),
            allowed=f"text, or some of {', '.join(CHAT_FIELDS)}",
            next="Rename its columns, or write it as JSON lines.",
        )
    kept: dict[str, Any] = plain({k: row[k] for k in ("text", *CHAT_FIELDS) if k in row})
    return kept
