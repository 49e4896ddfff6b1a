"""Questions in a conversation, rendered by the checkpoint's own chat template; in a plain form
where it has none.

``recall``: what the user said of themselves some turns before. ``speaker``: which of two people.
``reply``: the answer that belongs to what is asked. ``format``: the words in the form that is asked
for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minipuzzle.data import Tokenizer
from minipuzzle.data.chat_template import ChatTemplate, Message, read_templates
from minipuzzle.errors import UserError
from minipuzzle.questions.question import CHOICES, Question
from minipuzzle.questions.words import CITIES, JOBS, NAMES, REPLIES, THINGS

FORMATS = {
    "in capital letters": lambda words: " ".join(words).upper(),
    "separated by commas": lambda words: ", ".join(words),
    "as a numbered list": lambda words: "\n".join(f"{n}. {w}" for n, w in enumerate(words, 1)),
    "as a JSON list": lambda words: "[" + ", ".join(f'"{w}"' for w in words) + "]",
}
MARK = "<ANSWER>"
"""Stands for the answer while a template is rendered: what is before it is the context."""


def chats(words: Tokenizer, count: int, seed: int) -> list[Question]:
    """``count`` questions of each task, of ``reply`` one for each that may be asked: half of them,
    by ``seed`` 0 or 1. Raises: UserError for a template that refuses them.
    """
    rng = np.random.default_rng(seed)
    template = ChatTemplate(words.folder, words.names) if read_templates(words.folder) else None
    own = list(REPLIES)[seed::2]
    made = [("reply", _reply(rng, asked, own)) for asked in own[:count]]
    for task, make in {"recall": _recall, "speaker": _speaker, "format": _format}.items():
        made += [(task, make(rng)) for _ in range(count)]
    found = []
    for task, (turns, choices) in made:
        context, begun = _context(template, turns)
        said = tuple(choice if begun else f" {choice}" for choice in choices)
        found.append(Question(task=task, context=context, choices=said, begun=begun))
    return found


def _context(template: ChatTemplate | None, turns: Sequence[str]) -> tuple[str, bool]:
    """(the conversation up to where the assistant answers its last turn, whether a template wrote
    it).
    """
    if template is None:
        names = ("User", "Assistant")
        lines = [f"{names[i % 2]}: {text}" for i, text in enumerate(turns)]
        return "\n".join([*lines, "Assistant:"]), False
    roles = ("user", "assistant")
    messages: list[Message] = [
        {"role": roles[i % 2], "content": text} for i, text in enumerate((*turns, MARK))
    ]
    text, _ = template.render(messages, None)
    before, found, _ = text.rpartition(MARK)
    if not found:
        raise UserError(
            f"The chat template of {template.folder} leaves out what the assistant says.",
            got=text[:200],
            allowed="a template that renders the content of every message",
            next="Correct the template.",
        )
    return before, True


def _recall(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    name, job = _some(rng, NAMES, 1)[0], _some(rng, JOBS, CHOICES)
    city, other = (
        _some(rng, CITIES, CHOICES),
        list(REPLIES.items())[int(rng.integers(len(REPLIES)))],
    )
    begun = [
        f"My name is {name}. I live in {city[0]} and work as a {job[0]}.",
        f"Nice to meet you, {name}.",
        *other,
    ]
    if rng.integers(2):
        return [*begun, "Where do I live?"], [f"You live in {c}." for c in city]
    return [*begun, "What is my work?"], [f"You work as a {j}." for j in job]


def _speaker(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    one, two = _some(rng, NAMES, 2)
    things = _some(rng, THINGS, CHOICES)
    said = [f"{one} has the {things[0]}.", f"{two} has the {things[1]}."]
    if rng.integers(2):
        said.reverse()
    return [f"{' '.join(said)} What does {one} have?"], [f"{one} has the {t}." for t in things]


def _reply(rng: np.random.Generator, asked: str, own: Sequence[str]) -> tuple[list[str], list[str]]:
    others = _some(rng, [other for other in own if other != asked], CHOICES - 1)
    return [asked], [REPLIES[question] for question in (asked, *others)]


def _format(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    words, forms = _some(rng, THINGS, 3), _some(rng, list(FORMATS), CHOICES)
    asked = f"Write the words {words[0]}, {words[1]} and {words[2]} {forms[0]}."
    return [asked], [FORMATS[form](words) for form in forms]


def _some(rng: np.random.Generator, of: Sequence[str], count: int) -> list[str]:
    return [of[n] for n in rng.choice(len(of), count, replace=False)]
