"""What a search has measured of its candidates: run/search.partial/KEY.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from minipuzzle.arch import Selection
from minipuzzle.identity import fingerprint
from minipuzzle.nas.rank import Quality
from minipuzzle.records import PartialSearch
from minipuzzle.runs.job import Job


class Evaluations:
    """The qualities of candidates by name, each measured once and kept on disk: a search that was
    killed goes on where it was, in the precision that it began in.

    Other settings have files of their own.
    """

    def __init__(
        self, job: Job, key: str, measure: Callable[[Sequence[Selection]], Sequence[Quality]]
    ) -> None:
        self.key = fingerprint(key, "bf16" if job.device.type == "cuda" else "fp32")
        self.file = job.run / "search.partial" / f"{self.key}.json"
        self.measure = measure
        self.found: dict[str, Quality] = {}
        stored = PartialSearch.load(self.file) if self.file.exists() else None
        if stored is not None and stored.key == self.key:
            self.found = {
                name: Quality(
                    *values, {d: Quality(*v) for d, v in stored.domains.get(name, {}).items()}
                )
                for name, values in stored.results.items()
            }

    def __call__(self, named: Sequence[tuple[str, Selection]]) -> list[Quality]:
        """What candidates, a name and a selection each, do: as they were measured before; the
        others are measured now, together, and kept.

        Raises: UserError for a number that is not finite.
        """
        left = dict(pair for pair in named if pair[0] not in self.found)
        if left:
            new = dict(zip(left, self.measure(list(left.values())), strict=True))
            self._record(new).checked()
            self.found |= new
            self._record(self.found).save(self.file)
        return [self.found[name] for name, _ in named]

    def _record(self, found: dict[str, Quality]) -> PartialSearch:
        return PartialSearch(
            key=self.key,
            results={name: quality[:4] for name, quality in found.items()},
            domains={
                name: {domain: part[:4] for domain, part in quality.domains.items()}
                for name, quality in found.items()
                if quality.domains
            },
        )

    def forget(self) -> None:
        """The search is done."""
        self.file.unlink(missing_ok=True)
        with suppress(OSError):  # not there, or with other settings' in it
            self.file.parent.rmdir()
