"""Which candidate goes on to the long run: a heat of all, a short run of the best, the lowest validation loss wins.

The numbers are what docs/results/heats.md measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

FINALISTS = 3
HEAT_SHARE = 3
HEAT_BATCH = 4


@dataclass(frozen=True)
class Leg:
    """A run of one candidate: ``tokens`` after ``before`` tokens of the leg before, in batches ``1 / smaller`` as large."""

    label: str
    tokens: int
    before: int = 0
    smaller: int = 1


@dataclass(frozen=True)
class Outcome:
    """The winner, and the validation losses of all that ran, nats/token; ``heat`` is empty where there was none."""

    winner: str
    short: dict[str, float]
    heat: dict[str, float]


def race(
    names: Sequence[str], tokens: int, run: Callable[[str, Leg], float], say: Callable[[str], None] = lambda text: None
) -> Outcome:
    """Run candidates, in the order of the short list, for ``tokens`` each; ``run`` trains a leg and returns its loss.

    ``say`` is told who goes on after a heat. One candidate alone is not run.
    """
    if len(names) == 1:
        return Outcome(names[0], {}, {})
    heat: dict[str, float] = {}
    first = tokens // HEAT_SHARE
    on = list(names)
    if len(names) > FINALISTS and first:
        heat = {name: run(name, Leg("heat", first, smaller=HEAT_BATCH)) for name in names}
        on = sorted(heat, key=heat.__getitem__)[:FINALISTS]
        say(f"{', '.join(on)} go on to the short run")
    leg = Leg("short", tokens - first, before=first) if heat else Leg("short", tokens)
    short = {name: run(name, leg) for name in on}
    return Outcome(min(short, key=short.__getitem__), short, heat)
