"""commands.json: the command lines that were run in a run directory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from minipuzzle.records.base import Record


@dataclass(frozen=True, kw_only=True)
class CommandRow:
    """A command line that succeeded, its seconds, and when it ended (ISO 8601)."""

    command: str
    seconds: float
    date: str


@dataclass(frozen=True, kw_only=True)
class CommandLog(Record):
    """commands.json, the oldest command first."""

    schema: ClassVar[int] = 1
    again: ClassVar[str] = "Delete it: only the report's list of commands is lost."
    commands: tuple[CommandRow, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """As ``Record.load``; empty where there is no file."""
        return super().load(path) if path.exists() else cls()

    @classmethod
    def read(cls, found: Any, path: Path) -> Self:
        """As ``Record.read``; a bare list is what was written before 2026-11-29."""
        if isinstance(found, list):
            found = {"schema": cls.schema, "commands": found}
        return super().read(found, path)

    def with_row(self, row: CommandRow) -> Self:
        """The same and one more command."""
        return replace(self, commands=(*self.commands, row))
