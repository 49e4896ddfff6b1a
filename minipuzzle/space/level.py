"""How much of a parent a search keeps at least, level by level of its space."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minipuzzle.errors import UserError
from minipuzzle.kinds import KINDS
from minipuzzle.kinds.base import OTHERS


@dataclass(frozen=True, kw_only=True)
class Level:
    """Least shares of the parent: of its ``blocks`` by kind, of widths and heads, of hidden."""

    blocks: Mapping[str, float]
    width: float
    hidden: float


WIDTH_LEVELS = (0.75, 0.5, 0.25)
HIDDEN_LEVELS = (0.75, 0.5, 0.25)
"""As ``Block.min_keep``: the levels are tried in order, the first that reaches the budget is the
space. The first is for cuts such as 56B -> 47B.
"""


def levels(min_keep: Sequence[str]) -> tuple[Level, ...]:
    """The levels of the space, with the shares that ``min_keep`` names ("width=50%") in place of
    their own. Names are "width", "hidden", any kind, or "others" for kinds without a share of their
    own.

    Raises: UserError for a name or share that has no meaning.
    """
    given = dict(_share(text) for text in min_keep)
    return tuple(
        Level(
            blocks={name: _least_blocks(name, number, given) for name in KINDS},
            width=given.get("width", width),
            hidden=given.get("hidden", hidden),
        )
        for number, (width, hidden) in enumerate(zip(WIDTH_LEVELS, HIDDEN_LEVELS, strict=True))
    )


def _share(text: str) -> tuple[str, float]:
    """("width", 0.5) of "width=50%". Raises: UserError for another text."""
    own = [name for name, kind in KINDS.items() if kind.min_keep != OTHERS]
    together = [name for name in KINDS if name not in own]
    match = re.fullmatch(r"(\w+)=([0-9]+(?:\.[0-9]+)?)%", text.strip())
    names = {*KINDS, "others", "width", "hidden"}
    if match is None or match[1] not in names or not 0 <= float(match[2]) <= 100:
        raise UserError(
            f"{text!r} does not bound the space.",
            got=text,
            allowed=(
                f"{'=S%, '.join(own)}=S% and others=S% (blocks), {'=S%, '.join(together)}=S%"
                " (blocks of one kind of the others), width=S% (channels and heads), hidden=S%"
            ),
            next="Write for example width=50% for search.min_keep.",
        )
    return match[1], float(match[2]) / 100


def _least_blocks(name: str, level: int, given: Mapping[str, float]) -> float:
    """The least share of a kind's blocks: as given for it, else for all of its sort, else its
    own.
    """
    kind = KINDS[name]
    own = kind.min_keep[level]
    return given.get(name, given.get("others", own) if kind.min_keep == OTHERS else own)
