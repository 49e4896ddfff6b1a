"""Bytes by named term, and whether they fit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from minipuzzle.errors import UserError
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


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a command takes at most of one memory, "CPU" or "GPU", of which ``free`` bytes are to be
    had.
    """

    where: str
    peak: Peak
    free: int


def takes(command: str, needs: Sequence[Need]) -> str:
    """What a command says before it begins."""
    each = (f"of {need.where} memory, {need.peak}" for need in needs)
    return f"{command} takes at most, {'; '.join(each)}"


def check_fit(doing: str, needs: Sequence[Need], *, next: str) -> None:
    """Raises: UserError where one of the memories is too small; ``next`` says what would help."""
    for need in needs:
        if need.peak.total > need.free:
            raise UserError(
                f"{doing} does not fit into the {need.where}'s memory.",
                got=str(need.peak),
                allowed=bytes_(need.free),
                next=next,
            )
