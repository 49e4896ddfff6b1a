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
    "parameters (47B, 4.8M, 1.2e9) or a share of the parent's (83%), those that one token is"
    " computed with (active=3B, active=80%), memory (31.7GiB, 40GB, memory=80%),"
    " time (1.2x, prefill=12ms, prefill=1.3x, decode=1.2x, throughput=900tok/s), with"
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
    """What a model may have: ``parameters``, those that are ``active`` for a token, and ``bytes``
    (memory at the workload), None for no limit, and ``times``.
    """

    parameters: int | None = None
    active: int | None = None
    bytes: int | None = None
    times: tuple[TimeLimit, ...] = ()

    def texts(self) -> tuple[str, ...]:
        """The same as budgets, exactly: what ``parse_budget`` makes these limits of again for any
        parent.
        """
        found = [] if self.parameters is None else [str(self.parameters)]
        if self.active is not None:
            found.append(f"active={self.active}")
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
    active: int | None = None
    active_share: Fraction | None = None
    bytes: int | None = None
    memory_share: Fraction | None = None
    times: tuple[TimeBudget, ...] = ()

    def resolve(
        self,
        parent_parameters: int,
        parent_bytes: int = 0,
        parent_ms: Callable[[Phase, Generation], float] | None = None,
        parent_active: int = 0,
    ) -> Limits:
        """The limits for a parent of that many parameters, bytes and active parameters; the tighter
        one where something is limited twice.

        ``parent_ms`` gives its times, which a speed-up is relative to.
        """
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
            parameters=_tighter(self.parameters, self.share, parent_parameters),
            active=_tighter(self.active, self.active_share, parent_active),
            bytes=_tighter(self.bytes, self.memory_share, parent_bytes),
            times=tuple(times),
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
    numbers: dict[str, list[int]] = {"parameters": [], "active": []}
    shares: dict[str, list[Fraction]] = {"parameters": [], "active": [], "memory": []}
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
        elif unit == "%" and metric in ("", *shares):
            shares[metric or "parameters"].append(number / 100)
        elif unit in BYTE_UNITS and metric in ("", "memory"):
            sizes.append(whole(number * BYTE_UNITS[unit], text, FORMS))
        elif unit in COUNT_UNITS and metric in ("", *numbers):
            number = number * COUNT_UNITS[unit]
            numbers[metric or "parameters"].append(whole(number, text, FORMS))
        else:
            raise malformed(text, FORMS)
    return Budget(
        text=tuple(texts),
        parameters=min(numbers["parameters"], default=None),
        share=min(shares["parameters"], default=None),
        active=min(numbers["active"], default=None),
        active_share=min(shares["active"], default=None),
        bytes=min(sizes, default=None),
        memory_share=min(shares["memory"], default=None),
        times=tuple(times),
    )


def _tighter(limit: int | None, share: Fraction | None, of: int) -> int | None:
    """The smaller of a limit and a share of the parent's, as far as they are given."""
    limits = [limit, None if share is None else int(share * of)]
    return min((n for n in limits if n is not None), default=None)


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
