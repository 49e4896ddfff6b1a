"""The questions that ship as text: of language, of code, and facts.

``studies/question_texts.py`` made the first two; a fact's wrong answers are right ones of others of
its form, drawn by a seed.
"""

from __future__ import annotations

import bz2
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minipuzzle import embedded
from minipuzzle.questions.question import CHOICES, Question

FOLDER = Path(embedded.__file__).parent / "questions"


def language() -> list[Question]:
    """``last word`` and ``next sentence`` of addresses that no shipped text has."""
    return _read("language")


def code() -> list[Question]:
    """``next line`` and ``name`` (which of those before) of Python that no shipped text has."""
    return _read("code")


def facts() -> list[Question]:
    """Capitals, opposites, words for things and so on."""
    rng, found = np.random.default_rng(0), []
    for form, pairs in _forms():
        answers = sorted({answer for _, answer in pairs})
        for about, answer in pairs:
            others = [other for other in answers if other != answer]
            wrong = [others[n] for n in rng.choice(len(others), CHOICES - 1, replace=False)]
            context = form.replace("{}", about)
            choices = tuple(f" {text}" for text in (answer, *wrong))
            found.append(Question(task="fact", context=context, choices=choices))
    return found


def _read(name: str) -> list[Question]:
    lines = bz2.decompress((FOLDER / f"{name}.jsonl.bz2").read_bytes()).decode().splitlines()
    rows = map(json.loads, lines)
    return [
        Question(task=r["task"], context=r["context"], choices=tuple(r["choices"])) for r in rows
    ]


def _forms() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each form of sentence with its pairs (what it is about, the answer)."""
    form, pairs = "", list[tuple[str, str]]()
    for line in (FOLDER / "facts.txt").read_text().splitlines():
        if line.startswith("# "):
            if pairs:
                yield form, pairs
            form, pairs = line[2:], []
        else:
            about, _, answer = line.partition(" = ")
            pairs.append((about, answer))
    yield form, pairs
