"""How a training is divided among GPUs: all in shards, and whole what makes a step faster, where
that fits. A run and ``distill --plan`` decide alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from minipuzzle.memory.peak import Peak
from minipuzzle.memory.training import LOADED, RESERVE

SAFE = 0.9
"""Of the memory that is free: fragmentation and what the estimate does not see take the rest."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """Blocks of the kinds ``recomputed`` are computed again in the backward pass; each GPU has the
    ``whole_teacher``, not a shard of it; the student's weights, which every GPU has shards of, stay
    ``gathered`` from the forward pass to the backward pass.
    """

    recomputed: frozenset[str] = frozenset()
    whole_teacher: bool = False
    gathered: bool = False

    @property
    def whole(self) -> str:
        """What is whole on each GPU."""
        there = {"teacher": self.whole_teacher, "student": self.gathered}
        return " + ".join(name for name, is_there in there.items() if is_there)


def fits(peak: Peak, free: float, *, loaded: bool) -> bool:
    """Whether a step fits, where each GPU has ``free`` bytes after the models are ``loaded`` or
    before.
    """
    step, reserve = peak.without((*LOADED, RESERVE)).total, peak[RESERVE]
    return step <= SAFE * (free if loaded else free - (peak.total - step - reserve))


def divide(
    fitting: Callable[[Division], bool],
    start: Division,
    *,
    every: frozenset[str] | None = None,
    whole_teacher: bool = False,
    gathered: bool = False,
) -> Division:
    """``start``, with ``every`` kind recomputed where it does not fit otherwise; then with the
    ``whole_teacher`` and ``gathered``, those of them that may be, each where it fits besides.

    In this order since it is that of what they spare: a forward pass of the student; a gather, and
    codes of FP8 that are made anew; a gather.
    """
    made = start
    if every is not None and not fitting(made):
        made = replace(made, recomputed=every)
    if whole_teacher and fitting(more := replace(made, whole_teacher=True)):
        made = more
    if gathered and fitting(more := replace(made, gathered=True)):
        made = more
    return made
