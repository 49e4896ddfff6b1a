"""Rows of JSON lines and parquet files as objects, and which files hold conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minipuzzle.data.files import excerpt, file_format, reading
from minipuzzle.data.json_lines import json_lines, text_field
from minipuzzle.errors import UserError

Row = dict[str, Any]
ANSWERS = ("completion", "answer")
ALLOWED = (
    '"messages": [{"role": "...", "content": "..."}, ...], or "prompt" and "completion" (or '
    '"answer"): two lists of messages or two strings, neither of them empty'
)
CHAT_FIELDS = ("messages", "prompt", *ANSWERS, "tools")


def rows(file: Path) -> Iterator[tuple[str, Row]]:
    """("Line 3 of FILE", its object) of each line of JSON, or row of parquet.

    Of parquet only the fields of conversations are read, and what is null in a row is left out of
    it: a column of structs has every field in every row. Raises: UserError as ``reading``.
    """
    if file_format(file) != ".parquet":
        for number, line in json_lines(file):
            yield f"Line {number} of {file}", line
        return
    with parquet_file(file) as opened:
        fields = [name for name in CHAT_FIELDS if name in opened.schema_arrow.names]
        number = 0
        for batch in opened.iter_batches(columns=fields):
            for row in batch.to_pylist():
                yield f"Row {number} of {file}", plain(row)
                number += 1


def is_chat(file: Path) -> bool:
    """Whether a file holds conversations or prompts with answers, and not text: its first row says
    so. Raises: UserError as ``rows``.
    """
    match file_format(file):
        case ".parquet":
            with parquet_file(file) as opened:
                return has_chat(opened.schema_arrow.names)
        case ".jsonl":
            return next((has_chat(row) for _, row in json_lines(file)), False)
    return False


def has_chat(names: Any) -> bool:
    """Whether these names of fields are those of a conversation, or of a prompt with its answer."""
    return "messages" in names or ("prompt" in names and any(name in names for name in ANSWERS))


def pair_of(where: str, row: Row) -> tuple[str, str] | None:
    """(prompt, answer) of a row of strings, None where it has messages. Raises: UserError for a row
    without both, or with an empty one.
    """
    name = next((name for name in ANSWERS if name in row), ANSWERS[-1])
    if "messages" in row or isinstance(row.get(name), list):
        return None
    prompt, answer = (text_field(where, row, field, ALLOWED) for field in ("prompt", name))
    if not prompt or not answer:
        raise _refused(where, f"an empty {name if prompt else 'prompt'}")
    return prompt, answer


def messages_of(where: str, row: Row) -> tuple[list[Row], int]:
    """(the messages of a row, how many of them are its prompt). Raises: UserError where it has
    none.
    """
    if "messages" in row:
        return _messages(where, row["messages"]), 0
    prompt = _messages(where, row.get("prompt"))
    answer = next((row[name] for name in ANSWERS if name in row), None)
    return [*prompt, *_messages(where, answer)], len(prompt)


def tools_of(where: str, row: Row) -> list[Row] | None:
    """The tools of a row: a list of JSON schemas, or the text of one; None where there are none.
    Raises: UserError for anything else.
    """
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except (ValueError, RecursionError) as error:
            raise _refused(where, f"tools that are no JSON: {error}") from error
    if tools is not None and not _objects(tools):
        raise _refused(where, f"tools: {excerpt(json.dumps(tools))}")
    return tools or None


def _messages(where: str, messages: Any) -> list[Row]:
    if not messages or not _objects(messages):
        raise _refused(where, excerpt(json.dumps(messages)))
    if any(not isinstance(message.get("role"), str) for message in messages):
        raise _refused(where, f"a message without a role: {excerpt(json.dumps(messages))}")
    return list(messages)


def _objects(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


def _refused(where: str, got: str) -> UserError:
    return UserError(
        f"{where} is no conversation.",
        got=got,
        allowed=ALLOWED,
        next="Fix or remove it; other fields must be renamed.",
    )


@contextmanager
def parquet_file(path: Path) -> Iterator[Any]:
    """The ``pyarrow.parquet.ParquetFile``. Raises: UserError without pyarrow, and as
    ``reading``.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(
            "Parquet needs pyarrow, which is not installed.",
            got=path,
            allowed="pyarrow",
            next='pip install "minipuzzle[data]", or convert the file to .jsonl.',
        ) from error
    with reading(path):
        try:
            with parquet.ParquetFile(path) as file:
                yield file
        except pyarrow.ArrowException as error:  # not all of them are ValueErrors
            raise ValueError(error) from error


def plain(value: Any) -> Any:
    """A value of JSON's types alone, without what is null in a dict, at every depth."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
