"""Budgets as people write them: "47B", "83%", "31.7GiB", "1.2x". No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from minipuzzle.errors import UserError
from minipuzzle.settings.counts import COUNT_UNITS, malformed, split, whole
from minipuzzle.settings.workload import Generation, Phase, with_work

BYTE_UNITS = {
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
FORMS = (
    "parameters (47B, 4.8M, 1.2e9) or a share of the parent's (83%), memory (31.7GiB, 40GB,"
    " memory=80%), time (1.2x, prefill=12ms, prefill=1.3x, decode=1.2x, throughput=900tok/s), with"
    " @b8,p8k,o1k if need be"
)


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """At most ``ms`` milliseconds for a phase of a workload."""

    phase: Phase
    ms: float
    work: Generation

    @property
    def name(self) -> str:
        """For tables and messages."""
        return f"{self.phase} ms @{self.work}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a model may have: ``parameters`` and ``bytes`` (memory at the workload), None for no
    limit, and ``times``.
    """

    parameters: int | None = None
    bytes: int | None = None
    times: tuple[TimeLimit, ...] = ()

    def texts(self) -> tuple[str, ...]:
        """The same as budgets, exactly: what ``parse_budget`` makes these limits of again for any
        parent.
        """
        found = [] if self.parameters is None else [str(self.parameters)]
        if self.bytes is not None:
            found.append(f"memory={self.bytes // 1000}.{self.bytes % 1000:03}kB")
        found += [f"{t.phase}={t.ms!r}ms@{t.work}" for t in self.times]
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class TimeBudget:
    """A time as it was asked for: ``ms`` a step or a whole, or ``speedup`` over the parent; one of
    them is None.
    """

    phase: Phase
    work: Generation
    ms: Fraction | None = None
    speedup: Fraction | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One or more limits; shares are of the parent. Exact: 29 % of 100 is 29, which floats make
    28.
    """

    text: tuple[str, ...]
    parameters: int | None = None
    share: Fraction | None = None
    bytes: int | None = None
    memory_share: Fraction | None = None
    times: tuple[TimeBudget, ...] = ()

    def resolve(
        self,
        parent_parameters: int,
        parent_bytes: int = 0,
        parent_ms: Callable[[Phase, Generation], float] | None = None,
    ) -> Limits:
        """The limits for a parent of that many parameters and bytes; the tighter one where
        something is limited twice.

        ``parent_ms`` gives its times, which a speed-up is relative to.
        """
        shared = None if self.share is None else int(self.share * parent_parameters)
        limits = [p for p in (self.parameters, shared) if p is not None]
        part = None if self.memory_share is None else int(self.memory_share * parent_bytes)
        sizes = [b for b in (self.bytes, part) if b is not None]
        times = []
        for t in self.times:
            if t.ms is not None:
                ms = float(t.ms)
            else:
                assert parent_ms is not None
                assert t.speedup is not None
                ms = parent_ms(t.phase, t.work) / float(t.speedup)
            times.append(TimeLimit(phase=t.phase, ms=ms, work=t.work))
        return Limits(
            parameters=min(limits, default=None), bytes=min(sizes, default=None), times=tuple(times)
        )


def parse_budget(texts: Sequence[str], work: Generation | None = None) -> Budget:
    """The budget that all texts together mean; times are at ``work`` where they do not say
    otherwise.

    Raises: UserError for none, or one that has no meaning.
    """
    if not texts:
        raise UserError(
            "There is no budget.",
            got="no search.budget",
            allowed=FORMS,
            next="Name one with search.budget: 83%.",
        )
    work = work or Generation()
    parameters: list[int] = []
    shares: dict[str, list[Fraction]] = {"parameters": [], "memory": []}
    sizes: list[int] = []
    times: list[TimeBudget] = []
    for text in texts:
        metric, _, rest = text.rpartition("=") if "=" in text else ("", "", text)
        value, _, suffix = rest.partition("@")
        number, unit = split(value, FORMS)
        metric = metric.strip().lower()
        if unit in ("x", "ms", "s", "tok/s"):
            times.append(_time(text, metric, number, unit, with_work(text, suffix, work)))
        elif suffix:
            raise malformed(text, FORMS)
        elif unit == "%" and metric in ("", "parameters", "memory"):
            shares[metric or "parameters"].append(number / 100)
        elif unit in BYTE_UNITS and metric in ("", "memory"):
            sizes.append(whole(number * BYTE_UNITS[unit], text, FORMS))
        elif unit in COUNT_UNITS and metric in ("", "parameters"):
            parameters.append(whole(number * COUNT_UNITS[unit], text, FORMS))
        else:
            raise malformed(text, FORMS)
    return Budget(
        text=tuple(texts),
        parameters=min(parameters, default=None),
        share=min(shares["parameters"], default=None),
        bytes=min(sizes, default=None),
        memory_share=min(shares["memory"], default=None),
        times=tuple(times),
    )


def _time(text: str, metric: str, number: Fraction, unit: str, work: Generation) -> TimeBudget:
    phases: dict[str, Phase] = {
        "prefill": "prefill",
        "decode": "decode",
        "throughput": "total",
        "total": "total",
    }
    if metric == "" and unit == "x":
        metric = "throughput"
    fits = unit == "x" or (unit == "tok/s") == (metric == "throughput")
    if metric not in phases or not fits:
        raise UserError(
            f"{text!r} does not say which time it bounds.",
            got=text,
            allowed=FORMS,
            next="Write prefill=, decode=, total= or throughput= before it.",
        )
    if unit == "x":
        return TimeBudget(phase=phases[metric], work=work, speedup=number)
    if unit == "tok/s":
        return TimeBudget(phase="total", work=work, ms=1000 * work.batch * work.output / number)
    return TimeBudget(phase=phases[metric], work=work, ms=number * (1000 if unit == "s" else 1))
