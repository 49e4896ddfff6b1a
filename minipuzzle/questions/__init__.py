"""The shipped questions: five kinds of what a language model is for, four answers each, one right.
Nothing is fetched.

``language``, ``knowledge``, ``code``, ``long context`` and ``chat``. Of each kind one half chooses
(in a search, in a distillation), the other reports (``eval``), as with the validation text.
"""

from __future__ import annotations

from itertools import chain
from typing import Literal

from minipuzzle.data import Tokenizer
from minipuzzle.questions.chats import chats
from minipuzzle.questions.needles import needles
from minipuzzle.questions.question import CHANCE, CHOICES, Item, Question, item
from minipuzzle.questions.shipped import code, facts, language

__all__ = ["CHANCE", "CHOICES", "EACH", "Item", "Question", "item", "questions"]

Half = Literal["search", "eval"]
EACH = {"long context": 12, "chat": 50}
"""Of each task of a kind that is made and not stored; of needles at each length."""


def questions(
    words: Tokenizer, half: Half, *, longest: int, limit: int | None = None
) -> dict[str, list[Question]]:
    """One half of the questions of each kind, ``limit`` of them at most; long texts have up to
    ``longest`` tokens. Raises: UserError for a chat template that refuses them.
    """
    place = 0 if half == "search" else 1
    made = {
        "language": _every_other(language(), place),
        "knowledge": facts()[place::2],
        "code": _every_other(code(), place),
        "long context": needles(words, longest, EACH["long context"], place),
        "chat": chats(words, EACH["chat"], place),
    }
    return {kind: _spread(found, limit) for kind, found in made.items() if found}


def _every_other(found: list[Question], place: int) -> list[Question]:
    """Of each task."""
    tasks = dict.fromkeys(question.task for question in found)
    return list(chain(*([q for q in found if q.task == task][place::2] for task in tasks)))


def _spread(found: list[Question], limit: int | None) -> list[Question]:
    """``limit`` of them, as many of each task, or all."""
    if limit is None or limit >= len(found):
        return found
    return [found[i * len(found) // limit] for i in range(limit)]
