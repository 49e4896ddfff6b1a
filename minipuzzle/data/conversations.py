"""Conversations, and prompts with answers, as tokens with a mark on those that carry a loss.

A row has "messages" (role, content, tool calls, reasoning) and perhaps "tools"; or "prompt" and
"completion" (or "answer"), both lists of messages or both strings. Messages are rendered by the
checkpoint's chat template; strings follow each other as they stand, then the end token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minipuzzle.data.chat_template import ChatTemplate, Message
from minipuzzle.data.files import encodable
from minipuzzle.data.json_lines import half_a_character
from minipuzzle.data.rows import messages_of, pair_of, rows, tools_of
from minipuzzle.data.spans import rendered
from minipuzzle.data.tokenizer import Tokenizer
from minipuzzle.errors import UserError


class Example(NamedTuple):
    """``tokens`` [n] uint32; ``wanted`` [n] bool: those that carry a loss, never the first;
    ``text_bytes``: the size in UTF-8 of what these stand for.
    """

    tokens: NDArray[np.uint32]
    wanted: NDArray[np.bool_]
    text_bytes: int


@dataclass(kw_only=True)
class Conversations:
    """Reads files of conversations for one tokenizer; ``loss_on`` is "assistant" or "all".

    ``missed`` counts the assistant's turns that no span was found for, ``silent`` the conversations
    left out because none of their tokens carries a loss.
    """

    tokenizer: Tokenizer
    loss_on: str
    missed: int = field(default=0, init=False)
    silent: int = field(default=0, init=False)

    @cached_property
    def template(self) -> ChatTemplate:
        """The checkpoint's. Raises: UserError where it has none."""
        return ChatTemplate(self.tokenizer.folder, self.tokenizer.names)

    def read(self, file: Path) -> Iterator[Example]:
        """Each conversation of a file. Raises: UserError for a row that is none, or that the
        template refuses.
        """
        pairs: list[tuple[str, str]] = []
        for where, row in rows(file):
            if (pair := pair_of(where, row)) is not None:
                pairs.append(pair)
                continue
            yield from self._follow(pairs)
            pairs = []
            yield from self._rendered(where, *messages_of(where, row), tools_of(where, row))
        yield from self._follow(pairs)

    def _follow(self, pairs: list[tuple[str, str]]) -> Iterator[Example]:
        """Prompts and their answers, which follow them directly: white space between them belongs
        to one of them. The answer ends with the end token, the prompt does not.
        """
        prompts = self.tokenizer.encode_documents(prompt for prompt, _ in pairs)
        answers = self.tokenizer.encode_following(answer for _, answer in pairs)
        for (asked, said), prompt, answer in zip(pairs, prompts, answers, strict=True):
            tokens = np.concatenate([prompt[:-1], answer])
            counted = len(answer) if self.loss_on == "assistant" else len(tokens) - 1
            size = len(said.encode()) + (self.loss_on == "all") * len(asked.encode())
            yield Example(tokens, np.arange(len(tokens)) >= len(tokens) - counted, size)

    def _rendered(
        self, where: str, messages: list[Message], first: int, tools: list[Any] | None
    ) -> Iterator[Example]:
        try:
            if self.loss_on == "all":
                text = self.template.render(messages, tools)[0]
                spans = [(0, len(text))]
            else:
                ends = self.tokenizer.added
                found = rendered(self.template, messages, tools, ends=ends, first=first)
                text, spans = found.text, found.spans
                self.missed += found.missed
        except UserError as error:
            error.reword(lambda said: said.replace("a conversation", where, 1))
            raise
        if not encodable(text):
            raise half_a_character(where)
        tokens, wanted = self.tokenizer.encode_marked(text, spans)
        wanted[:1] = False
        if not wanted.any():
            self.silent += 1
            return
        yield Example(tokens, wanted, sum(len(text[a:b].encode()) for a, b in spans))
