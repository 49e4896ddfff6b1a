"""Questions about a sentence far back in a long text, made for a tokenizer and a length (as RULER's
needles in a haystack, arXiv:2404.06654).

``needle``: one sentence gives a place its word; the wrong answers are no place's. ``needles``: four
sentences do, and the wrong answers are the other places' words. The hay are the contexts of the
shipped questions of language, again from the start where it is used up.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from minipuzzle.data import Tokenizer
from minipuzzle.questions.question import CHOICES, Question
from minipuzzle.questions.shipped import language
from minipuzzle.questions.words import CITIES, THINGS
from minipuzzle.settings.evaluate import SHORTEST

SAID, ASKED = "The secret word of {} is {}.", "The secret word of {} is"
TASKS = {"needle": 1, "needles": CHOICES}
"""By name: how many sentences are hidden."""


def lengths(longest: int) -> list[int]:
    """256, 512, ... tokens up to ``longest``."""
    doublings = max(0, longest // SHORTEST).bit_length()
    return [SHORTEST << n for n in range(doublings)]


def needles(words: Tokenizer, longest: int, count: int, seed: int) -> list[Question]:
    """``count`` questions of each task at each of ``lengths(longest)``, none longer than that in
    tokens, its answer included.
    """
    rng = np.random.default_rng(seed)
    return [
        _question(words, f"{task} at {length:,}", length, hidden, rng)
        for length in lengths(longest)
        for task, hidden in TASKS.items()
        for _ in range(count)
    ]


def _question(
    words: Tokenizer, task: str, length: int, hidden: int, rng: np.random.Generator
) -> Question:
    places = [CITIES[n] for n in rng.choice(len(CITIES), hidden, replace=False)]
    things = [THINGS[n] for n in rng.choice(len(THINGS), CHOICES, replace=False)]
    said = [SAID.format(*pair) for pair in zip(places, things, strict=False)]
    choices = tuple(f" {thing}" for thing in things)
    asked = ASKED.format(places[0])
    # tokens of pieces add up to no less than those of the whole, but for a space between them
    used = sum(_size(words, f" {text}") for text in (*said, asked))
    room = length - len(words.around()[0]) - used - max(_size(words, c) for c in choices)
    hay = list(_hay(words, int(rng.integers(len(_sentences()))), room))
    for text in (said[n] for n in rng.permutation(hidden)):
        hay.insert(int(rng.integers(len(hay) + 1)), text)
    return Question(task=task, context=" ".join([*hay, asked]), choices=choices)


def _hay(words: Tokenizer, start: int, room: int) -> Iterator[str]:
    sentences = _sentences()
    while True:
        text = sentences[start % len(sentences)]
        size = _size(words, f" {text}")
        if size > room:
            return
        room, start = room - size, start + 1
        yield text


@lru_cache(maxsize=1)
def _sentences() -> list[str]:
    return [question.context + "." for question in language() if question.task == "last word"]


@lru_cache(maxsize=4096)
def _size(words: Tokenizer, text: str) -> int:
    return len(words.encode(text, special_tokens=False))
