"""The engines' table of ``minipuzzle export``."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table

STYLES = {"yes": "green", "no": "red", "unproven": "yellow"}


def engines_table(title: str, rows: list[dict[str, Any]]) -> RenderableType:
    """One row an engine: whether it loads the checkpoint, how or why not, and where that was
    seen.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("engine", "loads", "how, or why not", "seen"):
        table.add_column(column, no_wrap=column in ("engine", "loads"), overflow="fold")
    for row in rows:
        loads, how = row["loads"], row["how"].replace("[", "\\[")
        table.add_row(row["engine"], f"[{STYLES[loads]}]{loads}[/]", how, row["source"])
    return table
