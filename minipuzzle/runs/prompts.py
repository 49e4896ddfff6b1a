"""The prompts that a student continues while it is distilled."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minipuzzle.data import Tokenizer
from minipuzzle.data.chat_template import ChatTemplate
from minipuzzle.data.documents import file_documents
from minipuzzle.data.files import data_files, file_format
from minipuzzle.data.json_lines import text_field
from minipuzzle.data.rows import Row, messages_of, rows, tools_of
from minipuzzle.errors import UserError
from minipuzzle.identity import fingerprint

log = logging.getLogger(__name__)

ALLOWED = '"prompt": a text or a list of messages, or "messages"'


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The tokens [p] of each, and what changes with any of them."""

    tokens: Sequence[NDArray[np.integer[Any]]]
    fingerprint: str


def load_prompts(path: Path, tokenizer: Tokenizer, longest: int) -> Prompts:
    """The prompts of a file or folder; of longer ones the last ``longest`` tokens, which is logged.

    They are the "prompt" of each row, the "messages" up to the assistant's last turn in the
    checkpoint's chat template, or the documents of a text. Raises: UserError as ``read_documents``,
    for a row without a prompt beside rows with one, and where there is none at all.
    """
    whole = list(_Reader(tokenizer).read(path))
    if not whole:
        raise UserError(
            f"{path} holds no prompts.", got="no row", allowed=ALLOWED, next="Name another file."
        )
    longer = sum(len(tokens) > longest for tokens in whole)
    log.info(
        f"distill: {len(whole):,} prompts in {path}"
        + (f"; of {longer:,} only the last {longest:,} tokens" if longer else "")
    )
    tokens = [found[-longest:] for found in whole]
    return Prompts(tokens=tokens, fingerprint=fingerprint([found.tolist() for found in tokens]))


class _Reader:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer.folder, self.tokenizer.names)

    def read(self, path: Path) -> Iterator[NDArray[np.uint32]]:
        for file in data_files(path):
            if not _asks(file):
                # The end token of a document is none of the prompt's.
                found = self.tokenizer.encode_documents(file_documents(file))
                yield from (tokens[:-1] for tokens in found)
                continue
            for where, row in rows(file):
                tokens = self._tokens(where, row)
                if not len(tokens):
                    raise _refused(where, "an empty prompt")
                yield tokens

    def _tokens(self, where: str, row: Row) -> NDArray[np.uint32]:
        said = row.get("messages", row.get("prompt"))
        if not isinstance(said, list):
            text = text_field(where, row, "prompt", ALLOWED)
            return next(self.tokenizer.encode_documents([text]))[:-1]
        messages, _ = messages_of(where, {"messages": said})
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages:
            raise _refused(where, "only the assistant's turns")
        text, _ = self.template.render(messages, tools_of(where, row), prompt=True)
        return self.tokenizer.encode_marked(text, [])[0]


def _asks(file: Path) -> bool:
    """Whether its first row has a prompt; else it is text."""
    if file_format(file) == ".txt":
        return False
    return next(({"prompt", "messages"} & row.keys() for _, row in rows(file)), set()) != set()


def _refused(where: str, got: str) -> UserError:
    return UserError(
        f"{where} has no prompt.", got=got, allowed=ALLOWED, next="Fix or remove that row."
    )
