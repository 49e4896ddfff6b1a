"""Tasks made of a text, for studies/headline_tasks.py.

``last word`` (as LAMBADA: the last word of a passage that has it before, every token of it greedy),
``next sentence`` and ``next line`` among four by log probability a byte, ``copy`` (a random
sequence that began again), ``recall`` (a word that followed another one before). A task counts
where the parent is clearly above chance (two standard errors).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minipuzzle.data import Tokenizer
from minipuzzle.model import HybridLM
from minipuzzle.model.head import matmul_fp32

CHANCE = {
    "last word": 0.0,
    "lambada": 0.0,
    "next sentence": 0.25,
    "next line": 0.25,
    "copy": 0.0,
    "recall": 0.0,
}
CONTEXT, CHOICES, BATCH = 256, 4, 32


@dataclass(frozen=True, kw_only=True)
class Item:
    """``choices`` of tokens after a ``context``, the first one right, and the bytes of their
    texts.
    """

    context: list[int]
    choices: list[list[int]]
    sizes: list[int]


def last_words(passages: Any, words: Tokenizer, count: int, seen: bool = True) -> Iterator[Item]:
    """The last word of each passage; with ``seen`` only of those that have it before, as most of
    LAMBADA's do.
    """
    for passage in passages:
        found = re.fullmatch(r"(.{100,}\s)(['\"]?)([A-Za-z]{4,})[.!?'\"]*", passage, re.DOTALL)
        if found is None or (seen and found[3] not in found[1]):
            continue
        yield item(words, found[1].rstrip(), [" " + found[2] + found[3]])
        count -= 1
        if not count:
            return


def continuations(
    pieces: list[list[str]], joint: str, words: Tokenizer, count: int, rng: np.random.Generator
) -> Iterator[Item]:
    """A piece (a sentence, a line) of 20 to 200 characters after those before it, and three from
    elsewhere.
    """
    places = [
        (i, j)
        for i, part in enumerate(pieces)
        for j in range(3, len(part))
        if 20 <= len(part[j]) <= 200
    ]
    others = [
        part[j]
        for i, part in enumerate(pieces)
        for j in range(len(part))
        if 20 <= len(part[j]) <= 200
    ]
    for k in rng.permutation(len(places))[:count]:
        i, j = places[k]
        wrong = [others[n] for n in rng.integers(len(others), size=CHOICES - 1)]
        yield item(
            words,
            joint.join(pieces[i][max(0, j - 12) : j]),
            [joint + text for text in (pieces[i][j], *wrong)],
        )


def copies(words: Tokenizer, count: int, rng: np.random.Generator) -> Iterator[Item]:
    """24 random tokens, their first eight again, then the two that must follow."""
    for _ in range(count):
        sequence = rng.integers(words.vocab_size // 8, words.vocab_size, size=24).tolist()
        yield Item(
            context=[words.eos_id, *sequence, *sequence[:8]], choices=[sequence[8:10]], sizes=[1]
        )


def recalls(
    vocabulary: list[str], words: Tokenizer, count: int, rng: np.random.Generator
) -> Iterator[Item]:
    """ "a: b" for eight pairs of words, then one of the first words again."""
    known = sorted(set(vocabulary))
    if len(known) < 16:
        return
    for _ in range(count):
        chosen = [known[i] for i in rng.choice(len(known), 16, replace=False)]
        pairs, asked = (
            [f"{a}: {b}\n" for a, b in zip(chosen[::2], chosen[1::2], strict=True)],
            2 * int(rng.integers(8)),
        )
        yield item(words, "".join(pairs) + f"{chosen[asked]}:", [f" {chosen[asked + 1]}"])


def item(words: Tokenizer, context: str, choices: list[str]) -> Item:
    """Texts as tokens, the context's last CONTEXT."""
    ids = [words.encode(text, special_tokens=False) for text in choices]
    start = words.encode(context, special_tokens=False)[-CONTEXT:]
    return Item(
        context=start or [words.eos_id], choices=ids, sizes=[len(text.encode()) for text in choices]
    )


def correct(model: HybridLM, items: list[Item]) -> NDArray[np.bool_]:
    """[n] bool: the greedy continuation is the only choice, or the right one has the highest log
    probability a byte.
    """
    pairs = [(i, c) for i, item in enumerate(items) for c in range(len(item.choices))]
    scores = np.zeros((len(items), max(len(item.choices) for item in items)))
    greedy = np.zeros(len(items), dtype=bool)
    rows = [items[i].context + items[i].choices[c] for i, c in pairs]
    order = sorted(range(len(rows)), key=lambda n: -len(rows[n]))
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        starts = [len(items[pairs[n][0]].context) for n in part]
        for n, (log_p, best) in zip(
            part, score(model, [rows[n] for n in part], starts), strict=True
        ):
            i, c = pairs[n]
            scores[i, c], greedy[i] = log_p / items[i].sizes[c], best
    return greedy if scores.shape[1] == 1 else scores.argmax(1) == 0


@torch.no_grad()
def score(
    model: HybridLM, rows: list[list[int]], starts: list[int]
) -> Iterator[tuple[float, bool]]:
    """(log probability of what follows the context, whether each token of it is the likeliest);
    padding is behind the end.
    """
    device = model.embeddings.weight.device
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    hidden = model.hidden_states(tokens.to(device))
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        states, target = (
            hidden[i, start - 1 : len(row) - 1],
            torch.tensor(row[start:], device=device),
        )
        log_p = matmul_fp32(states, model.head_weight.to(states.dtype).t()).log_softmax(-1)
        yield (
            float(log_p.gather(1, target[:, None]).sum()),
            bool((log_p.argmax(-1) == target).all()),
        )


def above_chance(right: NDArray[np.bool_], chance: float) -> bool:
    """By two standard errors, and by five examples in a hundred where chance is none."""
    return bool(right.mean() > max(chance + 2 * (right.std() / len(right) ** 0.5), chance + 0.05))
