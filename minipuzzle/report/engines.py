"""The engines' table of ``minipuzzle export``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.console import RenderableType
from rich.table import Table


class Verdict(Protocol):
    """As ``export.verdicts.Verdict``, which this room does not import."""

    @property
    def engine(self) -> str:
        """The engine's name."""

    @property
    def loads(self) -> str:
        """Yes, no or unproven."""

    @property
    def how(self) -> str:
        """How it is started, or why it does not load."""

    @property
    def source(self) -> str:
        """Where that was seen."""


STYLES = {"yes": "green", "no": "red", "unproven": "yellow"}


def engines_table(title: str, rows: Sequence[Verdict]) -> RenderableType:
    """One row an engine: whether it loads the checkpoint, how or why not, and where that was
    seen.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("engine", "loads", "how, or why not", "seen"):
        table.add_column(column, no_wrap=column in ("engine", "loads"), overflow="fold")
    for row in rows:
        loads, how = row.loads, row.how.replace("[", "\\[")
        table.add_row(row.engine, f"[{STYLES[loads]}]{loads}[/]", how, row.source)
    return table
