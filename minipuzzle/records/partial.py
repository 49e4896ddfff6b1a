"""What a stopped stage goes on from: candidates that were measured or cut already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from minipuzzle.checked import Name
from minipuzzle.records.base import Record


@dataclass(frozen=True, kw_only=True)
class PartialSearch(Record):
    """search.partial/KEY.json: by candidate its next-token accuracy and agreement (shares), loss
    and KL (nats a token); the same of each domain of the text.
    """

    schema: ClassVar[int] = 1
    again: ClassVar[str] = "Delete it: the search measures its candidates again."
    key: str
    results: dict[str, tuple[float, float, float, float]]
    domains: dict[str, dict[str, tuple[float, float, float, float]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PartialPrune(Record):
    """prune.partial.json: the candidates that were cut, and how far their logits are off, relative
    to the largest.
    """

    schema: ClassVar[int] = 1
    again: ClassVar[str] = "Delete it: prune cuts its candidates again."
    key: str
    errors: dict[Name, float]
