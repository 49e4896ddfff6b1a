"""Sizes that a search also tries: "experts", "top_k=4,5,6", "hidden=2304..2688/128". No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from minipuzzle.errors import UserError

FORMS = "AXIS, AXIS=96,104,128, AXIS=96..128 or AXIS=96..128/8"
TEXT = re.compile(
    r"(\w+)(?:=(?:([0-9]{1,9})\.\.([0-9]{1,9})(?:/([0-9]{1,9}))?|([0-9]{1,9}(?:,[0-9]{1,9})*)))?"
)
LONGEST = 1000
"""Letters of a text: thousands of digits are no size."""


@dataclass(frozen=True, kw_only=True)
class Varied:
    """An axis and the ``sizes`` that were named for it; or all from the least to the greatest of a
    ``span``, in steps of ``step`` (0: the axis's own). Neither: the sizes that a search would take.
    """

    axis: str
    sizes: tuple[int, ...] = ()
    span: tuple[int, int] | None = None
    step: int = 0

    def of(self, whole: int, own: Sequence[int], every: Sequence[int]) -> tuple[int, ...]:
        """The sizes to try of an axis, ascending, the ``whole`` among them; ``own`` are those that
        a search would take, ``every`` those that it could.
        """
        if self.span is None:
            return tuple(sorted({*self.sizes, whole})) if self.sizes else tuple(own)
        low, high = self.span
        inside = range(low, high + 1, self.step) if self.step else every
        return tuple(sorted({low, high, whole, *(n for n in inside if low <= n <= high)}))


def parse_vary(texts: Sequence[str]) -> dict[str, Varied]:
    """What the texts ask for, by axis. Raises: UserError for one that has no meaning, and for an
    axis that is named twice.
    """
    found: dict[str, Varied] = {}
    for text in texts:
        match = TEXT.fullmatch(text.replace(" ", "")) if len(text) <= LONGEST else None
        if match is None:
            raise _refused(text, "does not say what to vary", FORMS)
        axis, low, high, step, listed = match.groups()
        sizes = tuple(int(n) for n in listed.split(",")) if listed else ()
        span = (int(low), int(high)) if low else None
        if min((*sizes, *(span or ()), int(step or 1)), default=1) < 1:
            raise _refused(text, "names a size of 0", "sizes of at least 1")
        if span and span[0] > span[1]:
            raise _refused(text, "names no size", "the smaller size first")
        if axis in found:
            raise _refused(text, f"names {axis} again", "each axis once")
        found[axis] = Varied(axis=axis, sizes=sizes, span=span, step=int(step or 0))
    return found


def _refused(text: str, what: str, allowed: str) -> UserError:
    return UserError(
        f"{text!r} {what}.",
        got=text,
        allowed=allowed,
        next="Write for example experts=96..128/8 for search.vary.",
    )
