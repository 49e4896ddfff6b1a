"""Things that come one file each: estimators, metrics, losses, engines. A new file is found by its
name.

A name is the file's, with "-" for "_"; what the file does in one line is the first line of its
docstring. Both are read without importing it, so that settings and ``--help`` need no torch.
"""

from __future__ import annotations

import ast
import difflib
import textwrap
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from minipuzzle.errors import UserError

HOME = Path(__file__).parent
Thing = TypeVar("Thing")


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The files of a folder of this package. Files that begin with "_" and ``base.py`` are none.

    ``what`` is what one is called ("estimator"); its file holds it under that name in capitals,
    with "_" for " ".
    """

    folder: str
    what: str

    def names(self) -> tuple[str, ...]:
        """Every name there is, in alphabetical order."""
        return tuple(sorted(path.stem.replace("_", "-") for path in self._paths()))

    def summaries(self) -> dict[str, str]:
        """What each does in one line, by name."""
        return {name: self._summary(name) for name in self.names()}

    def listing(self) -> str:
        """For ``--help``: the names and what each does, as lines of at most 78 characters."""
        width = max(map(len, self.names())) + 4
        lines = [f"{self.what.capitalize()}{'es' if self.what.endswith('s') else 's'}:"]
        for name, summary in self.summaries().items():
            text = f"{'  ' + name:<{width}}{summary.removesuffix('.')}"
            lines += textwrap.wrap(text, width=78, subsequent_indent=" " * width)
        return "\n".join(lines)

    def check(self, name: str) -> str:
        """The name itself. Raises: UserError that names the nearest where there is none such."""
        if name not in self.names():
            near = difflib.get_close_matches(name, self.names(), n=1, cutoff=0.0)
            raise UserError(
                f"There is no {self.what} {name!r}.",
                got=name,
                allowed=", ".join(self.names()),
                next=f"Did you mean {near[0]!r}?",
            )
        return name

    def load(self, name: str, of: type[Thing]) -> Thing:
        """The thing of a name, which must be a ``of``. Raises: UserError as ``check``, and
        TypeError for a file that does not hold one.
        """
        stem = self.check(name).replace("-", "_")
        module = import_module(f"minipuzzle.{self.folder.replace('/', '.')}.{stem}")
        found = getattr(module, self._attribute, None)
        if not isinstance(found, of):
            raise TypeError(f"{module.__file__} must hold {self._attribute}, a {of.__name__}")
        return found

    @property
    def _attribute(self) -> str:
        return self.what.upper().replace(" ", "_")

    def _paths(self) -> list[Path]:
        paths = (HOME / self.folder).glob("*.py")
        return [path for path in paths if path.stem[0] != "_" and path.stem != "base"]

    def _summary(self, name: str) -> str:
        path = HOME / self.folder / f"{name.replace('-', '_')}.py"
        return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


ESTIMATORS = Registry(folder="importance/estimators", what="estimator")
"""How channels and heads of one block are scored."""
EXPERT_ESTIMATORS = Registry(folder="importance/experts", what="expert estimator")
"""How experts of one block are scored."""
METRICS = Registry(folder="importance/metrics", what="metric")
"""What removing or narrowing a block does to the end of the model."""
DIVERGENCES = Registry(folder="training/divergences", what="divergence")
"""Losses that compare the teacher's and the student's distributions: one at most in a sum."""
LOSSES = Registry(folder="training/losses", what="loss")
"""Losses that may be added to a divergence, or stand alone."""
ENGINES = Registry(folder="export/engines", what="engine")
"""Programs that run a checkpoint."""
