"""Realise candidates and rank them by what they really do, before any training.

Each candidate is the parent under masks, so it costs one forward over the validation text and no copy. MiniPuzzle
ranks by next-token accuracy and by agreement with the parent's greedy token (arXiv:2504.03624); the paper does not say
how the two merge, we take the mean of the two ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minipuzzle.arch import Selection
from minipuzzle.search.select import Candidate


@dataclass(frozen=True, kw_only=True)
class Realised:
    """What a candidate does on the validation text; ``rank`` 1 is best."""

    candidate: Candidate
    next_token_accuracy: float
    agreement: float
    loss: float
    rank: int = 0


Measure = Callable[[Selection], tuple[float, float, float]]
"""Selection -> (next-token accuracy, agreement with the parent's greedy token, loss in nats)."""


def realise(
    candidates: Sequence[Candidate], measure: Measure, known: dict[str, tuple[float, float, float]],
    finished: Callable[[str, tuple[float, float, float]], None] = lambda name, result: None,
) -> list[Realised]:  # fmt: skip
    """Measure every candidate that is not in ``known`` yet, and return all of them, best rank first."""
    results = []
    for candidate in candidates:
        if candidate.name not in known:
            known[candidate.name] = measure(candidate.selection)
        finished(candidate.name, known[candidate.name])
        accuracy, agreement, loss = known[candidate.name]
        results.append((candidate, accuracy, agreement, loss))
    by_accuracy = _ranks([r[1] for r in results])
    by_agreement = _ranks([r[2] for r in results])
    order = sorted(range(len(results)), key=lambda i: (by_accuracy[i] + by_agreement[i], results[i][3]))
    return [
        Realised(
            candidate=results[i][0], next_token_accuracy=results[i][1], agreement=results[i][2], loss=results[i][3],
            rank=place,
        )
        for place, i in enumerate(order, start=1)
    ]  # fmt: skip


def _ranks(values: list[float]) -> list[float]:
    """Rank 1 for the largest; equal values share their mean rank."""
    order = sorted(values, reverse=True)
    first = {value: order.index(value) + 1 for value in set(values)}
    return [first[v] + (order.count(v) - 1) / 2 for v in values]
