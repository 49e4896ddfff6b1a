"""How the shipped questions of language and of code were made.

    python studies/question_texts.py --shared ../shared/data

They are made of what ``embedded/corpus.py`` set aside and shipped nowhere: State of the Union
addresses (a work of the US government) that the teacher was kept from, and Python of flopy (CC0)
and docutils (public domain). A question is left out where ten words in a row of it, with its right
answer, stand in the teacher's training text or in one of the texts that ship. A fact of
``facts.txt`` (which was written for this) whose whole sentence stands there is named, to be taken
out. Deterministic; needs pip for packages of PyPI. Writes embedded/questions/language.jsonl.bz2 and
code.jsonl.bz2: {"task", "context", "choices"} a line, the right choice first.
"""

from __future__ import annotations

import argparse
import bz2
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from minipuzzle.data.documents import SEPARATOR, read_documents
from minipuzzle.embedded import text_path
from minipuzzle.embedded.corpus import address_starts, free_texts, set_aside
from minipuzzle.questions.shipped import FOLDER, facts

Row = dict[str, str | list[str]]
COUNT = 220
"""Of each task."""
WORDS = 10
"""In a row: what a language model may have by heart."""
LONGEST = 320
"""Characters before the end of a text."""
CHOICES = 4


def main() -> None:
    """Make both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True)
    options = parser.parse_args()
    splits = ("train", "val", "calib")
    texts = {s: list(read_documents(options.shared / f"prose.{s}.txt.xz")) for s in splits}
    with tempfile.TemporaryDirectory() as folder:  # it writes heldout.txt, which is there
        aside, _ = set_aside(texts, address_starts(), Path(folder))
    shipped = [
        document
        for which in ("train", "calibration", "validation")
        for file in sorted(text_path(which).iterdir())
        for document in bz2.decompress(file.read_bytes()).decode().split(SEPARATOR)
    ]
    known = set(shipped)
    addresses = [d for d in aside if d not in known]
    code = [d for d in free_texts()["code"] if d not in known]
    rng = np.random.default_rng(0)
    made = {
        "last word": _shuffled(rng, _last_words(addresses, rng)),
        "next sentence": _shuffled(rng, _next_sentences(addresses, rng)),
        "next line": _shuffled(rng, _next_lines(code, rng)),
        "name": _shuffled(rng, _names(code, rng)),
    }
    others = set(addresses) | set(aside)
    trained = [d for d in texts["train"] if d not in others]
    trained += read_documents(options.shared / "code.train.txt.xz")
    sentences = [f"{fact.context}{fact.choices[0]}" for fact in facts()]
    found = _standing([_whole(row) for rows in made.values() for row in rows], [*trained, *shipped])
    for fact in sorted(_standing(sentences, trained, whole=True)):
        print(f"facts.txt: the training text says: {fact}")
    for name, tasks in (
        ("language", ("last word", "next sentence")),
        ("code", ("next line", "name")),
    ):
        kept = [
            {"task": task, **row}
            for task in tasks
            for row in [r for r in made[task] if _whole(r) not in found][:COUNT]
            if len(set(row["choices"])) == CHOICES  # a sentence may stand in two addresses
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        path = FOLDER / f"{name}.jsonl.bz2"
        path.write_bytes(bz2.compress(text.encode()))
        print(f"{path}: {len(kept)} questions, {path.stat().st_size:,} bytes")
    for task, rows in made.items():
        print(f"{task}: {sum(_whole(r) in found for r in rows)} of {len(rows)} left out")


def _last_words(documents: list[str], rng: np.random.Generator) -> Iterator[Row]:
    """The last word of a sentence, among words that end other sentences."""
    ends = sorted({m[1] for d in documents for m in re.finditer(r" ([a-z]{4,12})[.;]", d)})
    for before, sentence, _ in _sentences(documents):
        found = re.fullmatch(r"(.{30,}) ([a-z]{4,12})\.", sentence)
        if found is None:
            continue
        context = _end(f"{before} {found[1]}")
        near = [w for w in ends if abs(len(w) - len(found[2])) < 3 and w not in context]
        wrong = [near[n] for n in rng.choice(len(near), CHOICES - 1, replace=False)]
        yield {"context": context, "choices": [f" {w}" for w in (found[2], *wrong)]}


def _next_sentences(documents: list[str], rng: np.random.Generator) -> Iterator[Row]:
    """The sentence after others, among some of nearly its length from elsewhere."""
    every = list(_sentences(documents))
    for before, right, place in every:
        if not (40 <= len(right) <= 200 and len(before) >= 100):
            continue
        far = (s for _, s, w in every if w[0] != place[0] or abs(w[1] - place[1]) > 20)
        near = [s for s in far if abs(len(s) - len(right)) < 16]
        if len(near) >= CHOICES:
            wrong = [near[n] for n in rng.choice(len(near), CHOICES - 1, replace=False)]
            yield {"context": _end(before), "choices": [f" {s}" for s in (right, *wrong)]}


def _sentences(documents: list[str]) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """(what stands before it, a sentence, where: document and number), white space collapsed."""
    for number, document in enumerate(documents):
        found = re.split(r"(?<=[.!?])\s+", " ".join(document.split()))
        for i in range(3, len(found)):
            yield " ".join(found[i - 3 : i]), found[i], (number, i)


def _end(text: str) -> str:
    """Its last words, LONGEST characters at most."""
    return text if len(text) <= LONGEST else text[-LONGEST:].partition(" ")[2]


def _next_lines(documents: list[str], rng: np.random.Generator) -> Iterator[Row]:
    """The line after up to ten, among others of its file that are as far to the right."""
    for document in documents:
        lines = [line.rstrip() for line in document.split("\n") if line.strip()]
        for i in range(12, len(lines), 17):
            right, context = lines[i], "\n".join(lines[i - 8 : i])
            near = sorted({line for line in lines if _alike(line, right)} - {right})
            if _alike(right, right) and len(near) >= CHOICES and len(context) <= 500:
                wrong = [near[n] for n in rng.choice(len(near), CHOICES - 1, replace=False)]
                yield {"context": context, "choices": [f"\n{x}" for x in (right, *wrong)]}


def _alike(line: str, other: str) -> bool:
    own, length = len(line) - len(line.lstrip()), len(line.strip())
    return own == len(other) - len(other.lstrip()) and 14 <= length <= 90


def _names(documents: list[str], rng: np.random.Generator) -> Iterator[Row]:
    """A name that stands in the lines before, among others that do too."""
    for document in documents:
        lines = [line.rstrip() for line in document.split("\n") if line.strip()]
        for i in range(14, len(lines), 13):
            before = "\n".join(lines[i - 9 : i]) + "\n"
            places = list(re.finditer(r"\b[a-z_]{4,20}\b", lines[i]))
            known = set(re.findall(r"\b[a-z_]{4,20}\b", before))
            if not places or len(before) > 500 or lines[i].lstrip().startswith(("#", '"')):
                continue
            at = places[int(rng.integers(len(places)))]
            near = sorted(known - {at[0]})
            if at[0] not in known or at.start() < 8 or len(near) < CHOICES:
                continue
            wrong = [near[n] for n in rng.choice(len(near), CHOICES - 1, replace=False)]
            start = lines[i][: at.start()]
            space = " " if start.endswith(" ") else ""
            context = before + start.removesuffix(" ")
            yield {"context": context, "choices": [space + name for name in (at[0], *wrong)]}


def _shuffled(rng: np.random.Generator, rows: Iterator[Row]) -> list[Row]:
    """Twice as many as are kept, in another order."""
    every = list(rows)
    return [every[n] for n in rng.permutation(len(every))[: 2 * COUNT]]


def _whole(row: Row) -> str:
    return f"{row['context']}{row['choices'][0]}"


def _standing(wholes: list[str], documents: list[str], whole: bool = False) -> set[str]:
    """Those of ``wholes`` of which WORDS words in a row, or all, stand in one of ``documents``."""
    pieces: dict[tuple[str, ...], set[str]] = {}
    for text in wholes:
        words = _words(text)
        size = len(words) if whole else min(WORDS, len(words))
        for i in range(len(words) - size + 1):
            pieces.setdefault(tuple(words[i : i + size]), set()).add(text)
    found: set[str] = set()
    by_first: dict[str, dict[int, set[tuple[str, ...]]]] = {}
    for piece in pieces:
        by_first.setdefault(piece[0], {}).setdefault(len(piece), set()).add(piece)
    for document in documents:
        words = _words(document)
        for i, word in enumerate(words):
            for size, known in by_first.get(word, {}).items():
                piece = tuple(words[i : i + size])
                if piece in known:
                    found |= pieces[piece]
    return found


_words: Callable[[str], list[str]] = re.compile(r"\w+").findall


if __name__ == "__main__":
    main()
