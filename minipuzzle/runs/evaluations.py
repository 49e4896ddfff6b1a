"""What a search has measured of its candidates: run/search.partial/KEY.json."""

from __future__ import annotations

from collections.abc import Callable
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

    def __init__(self, job: Job, key: str, measure: Callable[[Selection], Quality]) -> None:
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

    def __call__(self, name: str, selection: Selection) -> Quality:
        """What a candidate does: as it was measured before, else measured now and kept.

        Raises: UserError for a number that is not finite.
        """
        if name not in self.found:
            quality = self.measure(selection)
            self._record({name: quality}).checked()
            self.found[name] = quality
            self._record(self.found).save(self.file)
        return self.found[name]

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
