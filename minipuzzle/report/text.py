"""A table as plain text, for messages."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

WIDTH = 132


def as_text(shown: RenderableType) -> str:
    """The lines of it, without colours."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    with console.capture() as kept:
        console.print(shown)
    return "\n".join(line.rstrip() for line in kept.get().rstrip().splitlines())
