"""Evaluate candidates and rank them by what they do, before any training.

Each candidate is the parent under masks, so it costs at most one forward over the validation text,
and no copy: those that agree on their first blocks share them. MiniPuzzle ranks by next-token
accuracy and by agreement with the parent's greedy token (arXiv:2504.03624); the paper does not say
how the two merge, we take the mean of the two ranks. The solver's candidates are ranked by KL from
the parent, the measure that Puzzle found best (arXiv:2411.19146).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from minipuzzle.arch import Selection
from minipuzzle.nas.select import Candidate
from minipuzzle.progress import SILENT, Progress
from minipuzzle.settings import Domains, Ranking

TOGETHER = 16
"""Candidates that are measured in one pass, and lost where a search is killed meanwhile."""


class Quality(NamedTuple):
    """What a model does on a text: shares of tokens, and nats a token; ``kl`` is KL(parent ||
    candidate). ``domains`` has the same of each domain of the text, where it has several.
    """

    next_token_accuracy: float
    agreement: float
    loss: float
    kl: float
    domains: Mapping[str, Quality] = MappingProxyType({})

    def parts(self, domains: Domains) -> list[Quality]:
        """What it is ranked by: itself by the mean, each of its domains by the worst."""
        return list(self.domains.values()) if domains == "worst" and self.domains else [self]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A candidate and what it does on the validation text; ``rank`` 1 is best, ``tasks`` the mean
    over ``kinds`` of questions, above chance, where these were asked.
    """

    candidate: Candidate
    quality: Quality
    rank: int = 0
    tasks: float | None = None
    kinds: Mapping[str, float] | None = None


def evaluate(
    candidates: Sequence[Candidate],
    measure: Callable[[Sequence[tuple[str, Selection]]], Sequence[Quality]],
    ranking: Ranking,
    progress: Progress = SILENT,
    domains: Domains = "mean",
) -> list[Evaluated]:
    """Every candidate with what ``measure`` says of its name and selection, best rank first;
    ``progress`` is told of candidates.

    Those that agree on their first blocks are given to ``measure`` TOGETHER.
    """
    order = sorted(range(len(candidates)), key=lambda i: candidates[i].path)
    found: dict[int, Quality] = {}
    for start in range(0, len(order), TOGETHER):
        group = order[start : start + TOGETHER]
        qualities = measure([(candidates[i].name, candidates[i].selection) for i in group])
        found |= zip(group, qualities, strict=True)
        progress.advance(len(group))
    results = [Evaluated(candidate=c, quality=found[i]) for i, c in enumerate(candidates)]
    return reranked(results, ranking, domains)


def reranked(
    results: Sequence[Evaluated], ranking: Ranking, domains: Domains = "mean"
) -> list[Evaluated]:
    """The same, best first, with their ranks: by the mean over the text, or by the domain that each
    is worst in.
    """
    order = _order([r.quality for r in results], ranking, domains)
    return [replace(results[i], rank=place) for place, i in enumerate(order, start=1)]


def by_tasks(results: Sequence[Evaluated], kinds: Sequence[Mapping[str, float]]) -> list[Evaluated]:
    """The first ones anew by the means over their ``kinds``, best first (equal ones as they were),
    then the others as they were.
    """
    averages = [sum(each.values()) / len(each) for each in kinds]
    first = [
        replace(result, tasks=average, kinds=each)
        for result, average, each in zip(results, averages, kinds, strict=False)
    ]
    order = sorted(range(len(first)), key=lambda i: (-averages[i], i))
    again = [*(first[i] for i in order), *results[len(first) :]]
    return [replace(result, rank=place) for place, result in enumerate(again, start=1)]


def shortlist(ranked: Sequence[Evaluated], count: int, ranking: Ranking) -> list[Evaluated]:
    """The ``count`` that go on to a short distillation.

    By agreement they are the first ones, as in the paper, but the best of each hidden size before a
    second of any: smaller ones recover better than their KL suggests
    (docs/decisions/hidden-sizes-that-are-distilled.md). By KL the first few are often one model
    with one width changed by a step, from which a distillation learns nothing, and KL before
    training favours what is intact over what recovers: first comes the best by KL, then the
    solver's own optimum (least summed damage), then the best of each other set of kept blocks or
    hidden size.
    """
    if not ranked:
        return []
    chosen = {ranked[0].candidate.name: ranked[0]}
    if ranking == "kl":
        best = optimum(ranked)
        chosen[best.candidate.name] = best
    seen = {_sort(r, ranking) for r in chosen.values()}
    for evaluated in ranked:
        sort = _sort(evaluated, ranking)
        if sort not in seen:
            seen.add(sort)
            chosen.setdefault(evaluated.candidate.name, evaluated)
    for evaluated in ranked:
        chosen.setdefault(evaluated.candidate.name, evaluated)
    return list(chosen.values())[:count]


def optimum(ranked: Sequence[Evaluated]) -> Evaluated:
    """The solver's own best, by least summed damage; the first of all where it proposed none."""
    solved = (r for r in ranked if r.candidate.origin == "solver")
    return min(solved, key=lambda r: r.candidate.damage, default=ranked[0])


def _sort(evaluated: Evaluated, ranking: Ranking) -> tuple[object, ...]:
    candidate = evaluated.candidate
    return candidate.hidden, candidate.blocks if ranking == "kl" else None


def worst_kl(quality: Quality, domains: Domains) -> float:
    """The KL that a candidate is ranked by."""
    return max(part.kl for part in quality.parts(domains))


def _order(qualities: list[Quality], ranking: Ranking, domains: Domains) -> list[int]:
    if ranking == "kl":
        return sorted(range(len(qualities)), key=lambda i: worst_kl(qualities[i], domains))
    # accuracies of different texts do not compare, ranks of candidates in them do
    each = zip(*(quality.parts(domains) for quality in qualities), strict=True)
    summed = [
        [
            accuracy + agreement
            for accuracy, agreement in zip(
                _ranks([part.next_token_accuracy for part in parts]),
                _ranks([part.agreement for part in parts]),
                strict=True,
            )
        ]
        for parts in each
    ]
    worst = [max(ranks) for ranks in zip(*summed, strict=True)]
    return sorted(range(len(qualities)), key=lambda i: (worst[i], qualities[i].loss))


def _ranks(values: list[float]) -> list[float]:
    """Rank 1 for the largest; equal values share their mean rank."""
    order = sorted(values, reverse=True)
    first = {value: order.index(value) + 1 for value in set(values)}
    return [first[v] + (order.count(v) - 1) / 2 for v in values]
