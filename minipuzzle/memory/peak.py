"""Bytes by named term."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from minipuzzle.units import GIB, bytes_


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Bytes at the worst moment, by the name of what takes them. ``str`` is one line of it."""

    terms: dict[str, int]

    @property
    def total(self) -> int:
        """All terms together."""
        return sum(self.terms.values())

    def __getitem__(self, term: str) -> int:
        return self.terms[term]

    def without(self, names: Collection[str]) -> Peak:
        """The other terms."""
        return Peak(terms={name: size for name, size in self.terms.items() if name not in names})

    def table(self) -> str:
        """A line for each term, and one for the total."""
        rows = {**self.terms, "total": self.total}
        texts = {name: bytes_(size) for name, size in rows.items()}
        left, right = max(map(len, texts)), max(map(len, texts.values()))
        return "\n".join(f"{name:<{left}}  {text:>{right}}" for name, text in texts.items())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.terms.items())
        return f"{self.total / GIB:.2f} GiB: {parts}"
