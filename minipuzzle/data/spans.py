"""Which characters of a rendered conversation the assistant wrote.

Where the template has ``{% generation %}``, those within it. Otherwise the conversation is rendered
up to each turn of the assistant's: with what makes it write next, where its turn begins, and with
the turn, where it ends. That holds only where what was rendered is how the whole begins. A turn
that the whole renders otherwise than when it was written (without its reasoning, say) is no span.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from minipuzzle.data.chat_template import ChatTemplate, Message, Span
from minipuzzle.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """``text`` with the characters [start, stop) of each turn of the assistant's from message
    ``first`` on; ``missed`` counts the turns that no span was found for.
    """

    text: str
    spans: list[Span]
    missed: int


def rendered(
    template: ChatTemplate,
    messages: list[Message],
    tools: list[Any] | None,
    *,
    ends: Iterable[str],
    first: int = 0,
) -> Rendered:
    """The conversation and its spans; white space behind one of the tokens ``ends`` is the
    template's, not the turn's.

    Raises: UserError as ``ChatTemplate.render``.
    """
    text, tagged = template.render(messages, tools)
    if template.tagged(tools):
        before = template.render(messages[:first], tools)[1] if first else []
        return Rendered(text=text, spans=tagged[len(before) :], missed=0)
    found = [
        _turn(template, messages, tools, text, turn, tuple(ends))
        for turn in range(first, len(messages))
        if messages[turn].get("role") == "assistant"
    ]
    return Rendered(text=text, spans=[s for s in found if s is not None], missed=found.count(None))


def _turn(
    template: ChatTemplate,
    messages: list[Message],
    tools: list[Any] | None,
    text: str,
    turn: int,
    ends: tuple[str, ...],
) -> Span | None:
    """The characters of message ``turn``, or None where the whole text does not begin as what is
    rendered of its start.
    """
    if not turn:
        return None  # nothing says where it begins
    try:
        before, asked = (
            template.render(messages[:turn], tools, prompt=p)[0] for p in (False, True)
        )
        through = template.render(messages[: turn + 1], tools)[0]
    except UserError:  # a template may refuse what is no whole conversation
        return None
    same = takewhile(lambda pair: pair[0] == pair[1], zip(asked, through, strict=False))
    start = sum(1 for _ in same)
    if not text.startswith(through) or not text.startswith(before) or start < len(before):
        return None
    written = through[start:].rstrip()
    stop = start + len(written) if written.endswith(ends) else len(through)
    return (start, stop) if start < stop else None
