"""Which candidate goes on to the long run: a screening run of all, a short run of the best. The
lowest validation loss wins.

The numbers are what docs/results/screening.md measured.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

FINALISTS = 3
SCREENING_SHARE = 3
SCREENING_BATCH = 4


@dataclass(frozen=True)
class Leg:
    """A run of one candidate: ``tokens`` after ``before`` tokens of the leg before, in batches ``1
    / smaller`` as large.
    """

    label: str
    tokens: int
    before: int = 0
    smaller: int = 1


@dataclass(frozen=True)
class Outcome:
    """The winner, and the validation losses of all that ran, nats/token; ``screening`` is empty
    where there was none.
    """

    winner: str
    short: dict[str, float]
    screening: dict[str, float]


def race(
    names: Sequence[str],
    tokens: int,
    run: Callable[[str, Leg], float],
    drop: Callable[[str, str], None] = lambda name, label: None,
) -> Outcome:
    """Run candidates, in the order of the short list, for ``tokens`` each; ``run`` trains a leg and
    returns its loss.

    ``drop(name, label)`` is told, perhaps
    more than once, of legs that nothing goes on from: at most FINALISTS screening runs and
    one short run are needed at a time. One candidate alone is not run.
    """
    if len(names) == 1:
        return Outcome(names[0], {}, {})
    screening: dict[str, float] = {}
    first = tokens // SCREENING_SHARE
    on = list(names)
    if len(names) > FINALISTS and first:
        for name in names:
            screening[name] = run(name, Leg("screening", first, smaller=SCREENING_BATCH))
            for slower in _ranked(screening)[FINALISTS:]:
                drop(slower, "screening")
        on = _ranked(screening)[:FINALISTS]
        log.info(f"distill: {', '.join(on)} go on to the short run")
    leg = Leg("short", tokens - first, before=first) if screening else Leg("short", tokens)
    short: dict[str, float] = {}
    for name in on:
        short[name] = run(name, leg)
        drop(name, "screening")
        for slower in _ranked(short)[1:]:
            drop(slower, "short")
    return Outcome(_ranked(short)[0], short, screening)


def _ranked(losses: dict[str, float]) -> list[str]:
    """Names by loss, the lowest first; of equal ones the earlier, and last what is no number."""
    return sorted(losses, key=lambda name: (math.isnan(losses[name]), losses[name]))
