"""Which candidate goes on to the long run: a heat of all, a short run of the best, the lowest
validation loss wins.

The numbers are what docs/results/screening.md measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

FINALISTS = 3
HEAT_SHARE = 3
HEAT_BATCH = 4


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
    """The winner, and the validation losses of all that ran, nats/token; ``heat`` is empty where
    there was none.
    """

    winner: str
    short: dict[str, float]
    heat: dict[str, float]


def race(
    names: Sequence[str],
    tokens: int,
    run: Callable[[str, Leg], float],
    say: Callable[[str], None] = lambda text: None,
    drop: Callable[[str, str], None] = lambda name, label: None,
) -> Outcome:
    """Run candidates, in the order of the short list, for ``tokens`` each; ``run`` trains a leg and
    returns its loss.

    ``say`` is told who goes on after a heat. ``drop(name, label)`` is told, more than once perhaps,
    of legs that nothing goes on from: at most FINALISTS heats and one short run are needed at a
    time. One candidate alone is not run.
    """
    if len(names) == 1:
        return Outcome(names[0], {}, {})
    heat: dict[str, float] = {}
    first = tokens // HEAT_SHARE
    on = list(names)
    if len(names) > FINALISTS and first:
        for name in names:
            heat[name] = run(name, Leg("heat", first, smaller=HEAT_BATCH))
            for slower in _ranked(heat)[FINALISTS:]:
                drop(slower, "heat")
        on = _ranked(heat)[:FINALISTS]
        say(f"{', '.join(on)} go on to the short run")
    leg = Leg("short", tokens - first, before=first) if heat else Leg("short", tokens)
    short: dict[str, float] = {}
    for name in on:
        short[name] = run(name, leg)
        drop(name, "heat")
        for slower in _ranked(short)[1:]:
            drop(slower, "short")
    return Outcome(_ranked(short)[0], short, heat)


def _ranked(losses: dict[str, float]) -> list[str]:
    """Names by loss, the lowest first; of equal ones the earlier, and last what is no number."""
    return sorted(losses, key=lambda name: (math.isnan(losses[name]), losses[name]))
