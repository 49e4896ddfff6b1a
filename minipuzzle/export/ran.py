"""Which engine has run which family's checkpoints: ``ran.json``, a row for each, with where the run
is committed. No torch.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from minipuzzle.artifacts import read_json


class Run(TypedDict):
    """One row: ``what`` ran in ``version`` of the ``engine`` on a ``date``; ``where`` is the file
    of this repository that has the numbers or runs it again.
    """

    family: str
    engine: str
    version: str
    date: str
    what: str
    where: str


@lru_cache
def runs() -> tuple[Run, ...]:
    """All rows."""
    return tuple(read_json(Path(__file__).with_name("ran.json"), list[Run]))


def ran(engine: str, family: str) -> Run | None:
    """The row of an engine (by its name in the registry) and a family; None where nothing ran."""
    matching = (row for row in runs() if (row["engine"], row["family"]) == (engine, family))
    return next(matching, None)
