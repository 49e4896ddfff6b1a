"""Budgets as people write them: "47B", "83%", "31.7GiB". Parsed once, with units. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from minipuzzle.errors import UserError

COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20}
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
COUNTS = "a count such as 65536, 128k, 1M, 8Ki"
NUMBER = re.compile(
    r"([0-9]{1,40}(?:\.[0-9]{1,40})?(?:e[+-]?[0-9]{1,2})?)\s*([a-z%/]{0,8})", re.IGNORECASE
)
MOST = 10**18
"""Larger numbers are typing errors, and would not fit the int64 of the grid."""
MOST_TOKENS = 10**12
"""In all sequences of a workload together: their caches' bytes still fit the int64 of the grid."""


Phase = Literal["prefill", "decode", "total"]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What is timed: ``batch`` sequences of ``prompt`` tokens that are each continued by ``output``
    tokens.

    prefill reads the prompt; decode makes one token at a context of prompt + output / 2; total =
    prefill + output x decode.
    """

    batch: int = 1
    prompt: int = 512
    output: int = 64

    def __post_init__(self) -> None:
        check_tokens(self.batch, self.prompt + self.output, str(self))

    @property
    def context(self) -> int:
        """Tokens in the cache half-way."""
        return self.prompt + self.output // 2

    def __str__(self) -> str:
        return f"b{self.batch},p{self.prompt},o{self.output}"


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
            "There is no budget.", got="no --budget", allowed=FORMS, next="Add one: --budget 83%."
        )
    work = work or Generation()
    parameters: list[int] = []
    shares: dict[str, list[Fraction]] = {"parameters": [], "memory": []}
    sizes: list[int] = []
    times: list[TimeBudget] = []
    for text in texts:
        metric, _, rest = text.rpartition("=") if "=" in text else ("", "", text)
        value, _, suffix = rest.partition("@")
        number, unit = _split(value, FORMS)
        metric = metric.strip().lower()
        if unit in ("x", "ms", "s", "tok/s"):
            times.append(_time(text, metric, number, unit, _work(text, suffix, work)))
        elif suffix:
            raise _malformed(text, FORMS)
        elif unit == "%" and metric in ("", "parameters", "memory"):
            shares[metric or "parameters"].append(number / 100)
        elif unit in BYTE_UNITS and metric in ("", "memory"):
            sizes.append(_whole(number * BYTE_UNITS[unit], text, FORMS))
        elif unit in COUNT_UNITS and metric in ("", "parameters"):
            parameters.append(_whole(number * COUNT_UNITS[unit], text, FORMS))
        else:
            raise _malformed(text, FORMS)
    return Budget(
        text=tuple(texts),
        parameters=min(parameters, default=None),
        share=min(shares["parameters"], default=None),
        bytes=min(sizes, default=None),
        memory_share=min(shares["memory"], default=None),
        times=tuple(times),
    )


def check_tokens(batch: int, length: int, shown: str) -> None:
    """Raises: UserError for a workload without a token, or with more than any machine holds."""
    if batch < 1 or length < 1 or batch * length > MOST_TOKENS:
        raise UserError(
            "No machine runs such a workload.",
            got=shown,
            allowed=(
                f"at least one sequence of one token, and at most {MOST_TOKENS:,} tokens in all of"
                " them"
            ),
            next="Change the batch, or the tokens of a sequence.",
        )


def parse_work(text: str, default: Generation | None = None) -> Generation:
    """A workload such as "b32,p64k,o1k". Raises: UserError for anything else."""
    return _work(text, text, default or Generation())


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


def _work(text: str, suffix: str, default: Generation) -> Generation:
    fields = {"batch": default.batch, "prompt": default.prompt, "output": default.output}
    for part in filter(None, suffix.split(",")):
        name = {"b": "batch", "p": "prompt", "o": "output"}.get(part.strip()[:1].lower())
        if name is None:
            raise _malformed(text, "a workload such as b8,p8k,o1k (batch, prompt, output)")
        rest = part.strip()[1:]
        fields[name] = 0 if name == "output" and rest == "0" else parse_count(rest)
    return Generation(**fields)


def parse_count(text: str) -> int:
    """A count such as a context: "1M" is 1,000,000, "128k" 128,000, "8Ki" 8,192, "65536" itself.

    Raises: UserError for anything that is not a whole number of at least 1.
    """
    number, unit = _split(text, COUNTS)
    if unit not in COUNT_UNITS or (number * COUNT_UNITS[unit]).denominator != 1:
        raise _malformed(text, COUNTS)
    return _whole(number * COUNT_UNITS[unit], text, COUNTS)


def _split(text: str, allowed: str) -> tuple[Fraction, str]:
    match = NUMBER.fullmatch(text.strip())
    if match is None or Fraction(match[1]) <= 0:
        raise _malformed(text, allowed)
    return Fraction(match[1]), match[2].lower()


def _whole(value: Fraction, text: str, allowed: str) -> int:
    if not 1 <= value <= MOST:
        raise _malformed(text, f"{allowed}, between 1 and {MOST:.0e}")
    return int(value)


def _malformed(text: str, allowed: str) -> UserError:
    return UserError(
        f"{text!r} is not a budget or count.",
        got=text,
        allowed=allowed,
        next="Write it in one of those forms.",
    )
