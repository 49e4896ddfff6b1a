"""A JSON file of a run directory as a dataclass with a schema number."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from minipuzzle.artifacts import plain_json, read_json, write_json
from minipuzzle.checked import fault, make, require, table
from minipuzzle.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a file holds. Its fields are the keys: a field without a default must be there, one that
    is None by default is left out where it is None.

    ``schema`` is the number that the file carries (a file without one is of schema 1); another
    number means another form, which is refused. ``again`` says what to do about a file that cannot
    be read.
    """

    schema: ClassVar[int]
    again: ClassVar[str]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote.

        Raises: UserError where it is missing, damaged, of another schema or contradicts itself.
        """
        return cls.read(read_json(path, next=cls.again), path)

    @classmethod
    def read(cls, found: Any, path: Path) -> Self:
        """The record in the JSON value of a file. Raises: as ``load``."""
        require(found, dict[str, Any], what=str(path), next=cls.again)
        if found.get("schema", 1) != cls.schema:
            raise UserError(
                f"{path} has another schema.",
                got=found.get("schema", "none"),
                allowed=cls.schema,
                next=cls.again,
            )
        require(found, cls, what=str(path), next=cls.again)
        made: Self = make(cls, found)
        if wrong := made.contradiction():
            raise UserError(
                f"{path} contradicts itself.",
                got=wrong,
                allowed="what minipuzzle wrote",
                next=cls.again,
            )
        return made

    def contradiction(self) -> str:
        """What does not fit together in it; empty for nothing."""
        return ""

    def json(self) -> dict[str, Any]:
        """What the file holds."""
        return {"schema": self.schema, **table(self)}

    def checked(self) -> Self:
        """The record itself. Raises: UserError where ``load`` would refuse it: a number that was
        measured and is not finite.
        """
        found = json.loads(json.dumps(self.json(), default=plain_json))
        if (wrong := fault(found, type(self))) is not None:
            where, got, allowed = wrong
            raise UserError(
                f"What was measured does not hold what it should at {where.lstrip('.')}.",
                got=got,
                allowed=allowed,
                next="Check the model: its weights give numbers that are not finite.",
            )
        return self

    def save(self, path: Path) -> None:
        """Write the file whole or not at all. Raises: UserError as ``write_json``."""
        write_json(path, self.json())
