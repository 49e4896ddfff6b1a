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
    of this repository that has the numbers or runs it again. ``experts``: the axes in which its
    blocks with experts differed; None where it had none. ``format``: that of quantised weights.
    """

    family: str
    engine: str
    experts: list[str] | None
    format: str | None
    version: str
    date: str
    what: str
    where: str


@lru_cache
def runs() -> tuple[Run, ...]:
    """All rows."""
    return tuple(read_json(Path(__file__).with_name("ran.json"), list[Run]))


def ran(engine: str, family: str, apart: set[str] | None, format: str | None) -> Run | None:
    """The row of an engine (by its name in the registry) and a family whose experts differ in the
    axes ``apart`` (None: no experts), with weights in a ``format`` of ``form_of`` (None: whole
    ones); None where nothing of that form ran.
    """
    for row in runs():
        form = (row["engine"], row["family"], row["format"])
        if form == (engine, family, format) and _covers(row["experts"], apart):
            return row
    return None


def _covers(axes: list[str] | None, apart: set[str] | None) -> bool:
    return axes is None if apart is None else axes is not None and apart <= set(axes)
