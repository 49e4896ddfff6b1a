"""A question with four answers to choose from, and what a tokenizer makes of it."""

from __future__ import annotations

from dataclasses import dataclass

from minipuzzle.data import Tokenizer

CHOICES = 4
CHANCE = 1 / CHOICES
"""Of a guess."""
WHOLE = ("fact", "next sentence", "next line")
"""Tasks whose choices are likely or not whatever stands before them: what each has at the start of
a text is taken off (arXiv:2104.08315). Of the others it is the log probability a byte.
"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What follows ``context``: the first of ``choices``. ``begun``: the context has the special
    tokens that a text begins with, as a chat template writes them.
    """

    task: str
    context: str
    choices: tuple[str, ...]
    begun: bool = False


@dataclass(frozen=True, kw_only=True)
class Item:
    """``choices`` of tokens after a ``context``, the first one right, and the bytes of their
    texts; ``start`` are the tokens that a text begins with where the choices are compared with
    what they have there.
    """

    context: list[int]
    choices: list[list[int]]
    sizes: list[int]
    start: list[int] | None = None


def item(question: Question, words: Tokenizer) -> Item:
    """The tokens of a question: of each choice those that follow the context directly."""
    before = [] if question.begun else words.around()[0]
    context = [*before, *words.encode(question.context, special_tokens=False)]
    following = words.encode_following(question.choices)
    return Item(
        context=context or [words.eos_id],
        choices=[found[:-1].tolist() for found in following],
        sizes=[len(text.encode()) for text in question.choices],
        start=(before or [words.eos_id]) if question.task in WHOLE else None,
    )
