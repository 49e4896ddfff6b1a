"""How long an architecture takes: a table of measured blocks, summed. No torch.

Each distinct block was timed inside a running model (``minipuzzle profile``), whole and with each
of its axes smaller; sizes between two measured ones are read off a straight line, and where several
axes are smaller their ratios to the whole are multiplied. What the sums leave out is measured too
and kept in the table: the additivity error.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, NotRequired, Protocol, TypedDict

from minipuzzle.arch import Architecture
from minipuzzle.artifacts import read_json, write_json
from minipuzzle.checked import Count, Must, Positive, fault, require
from minipuzzle.errors import UserError
from minipuzzle.identity import Plain, plain
from minipuzzle.kinds import KINDS, Block, Width
from minipuzzle.settings import Generation, Phase

SCHEMA = 1


class _Entry(TypedDict):
    phase: Phase
    batch: Positive
    tokens: Count
    block: Annotated[
        str,
        Must(
            lambda text: _is_block(text), "a block as JSON, or a text about what surrounds blocks"
        ),
    ]
    ms: Annotated[float, Must(lambda ms: ms > 0, "above 0")]


class _Whole(TypedDict):
    error: float


class _Stored(TypedDict):
    device: str
    dtype: Literal["float32", "bfloat16", "float16"]
    date: str
    additivity: NotRequired[list[_Whole]]
    entries: list[_Entry]


def _is_block(text: str) -> bool:
    """Whether what begins as JSON describes a block: its kind, and sizes of the axes that tables
    vary.
    """
    if not text.startswith("{"):
        return True
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    kind = KINDS.get(str(found.get("kind")))
    if kind is None:
        return False
    axes = [axis for width in varied(kind) for axis in width.axes]
    return all(
        fault(_field(kind, found, axis), Positive if axis in found else Count) is None
        for axis in axes
    )


class Timing(Protocol):
    """Something that knows times: a measured table or a roofline estimate; ``source`` says
    which.
    """

    def identity(self) -> dict[str, Plain]:
        """What a search that went by these times is compared by."""

    @property
    def source(self) -> str:
        """Where the times come from, for people."""

    @property
    def margin(self) -> float:
        """The share by which sums of blocks are typically off: kept free in a budget of time."""

    def ms(
        self, block: Block | None, phase: Phase, work: Generation, parent: Architecture
    ) -> float:
        """Milliseconds of a block, or (None) of embedding, final norm, head and the loop around
        blocks.
        """


def model_ms(timing: Timing, architecture: Architecture, phase: Phase, work: Generation) -> float:
    """The sum over an architecture's blocks and what surrounds them."""
    blocks = sum(timing.ms(block, phase, work, architecture) for block in architecture.blocks)
    return blocks + timing.ms(None, phase, work, architecture)


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Medians in milliseconds. ``entries``: (phase, batch, tokens, block as JSON) -> ms; ``meta``
    has device, dtype, date.
    """

    meta: dict[str, Any]
    entries: dict[tuple[str, int, int, str], float] = field(default_factory=dict)

    def identity(self) -> dict[str, Plain]:
        """What a search that went by these times is compared by: all of them."""
        rows: list[Plain] = [[*key, ms] for key, ms in sorted(self.entries.items())]
        return {"meta": plain(self.meta), "entries": rows}

    @property
    def source(self) -> str:
        """Where the times come from, for people."""
        return f"measured on {self.meta['device']}, {self.meta['dtype']}, {self.meta['date']}"

    @property
    def margin(self) -> float:
        """The median additivity error of the whole models that were timed with the table; 0 where
        none was.
        """
        errors = [abs(float(row["error"])) for row in self.meta.get("additivity", [])]
        return median(errors) if errors else 0.0

    def ms(
        self, block: Block | None, phase: Phase, work: Generation, parent: Architecture
    ) -> float:
        """As ``Timing.ms``. Raises: UserError for a workload or a shape that was not measured."""
        if phase == "total":
            return self.ms(block, "prefill", work, parent) + work.output * self.ms(
                block, "decode", work, parent
            )
        tokens = work.prompt if phase == "prefill" else work.context
        if block is None:
            return self._at(phase, work, tokens, surroundings(parent))
        key = (phase, work.batch, tokens, describe(block))
        if key in self.entries:
            return self.entries[key]
        return self._between(block, phase, work, tokens)

    def _at(self, phase: Phase, work: Generation, tokens: int, text: str) -> float:
        key = (phase, work.batch, tokens, text)
        if key not in self.entries:
            known = sorted({f"{p} of {t:,} tokens, batch {b}" for p, b, t, _ in self.entries})
            raise _unmeasured(
                f"{phase} of {tokens:,} tokens, batch {work.batch}: {text}", "; ".join(known), work
            )
        return self.entries[key]

    def _between(self, block: Block, phase: Phase, work: Generation, tokens: int) -> float:
        form, sizes = _split(describe(block))
        there = f"{phase} of {tokens:,} tokens, batch {work.batch}"
        points = {
            tuple(found.values()): ms
            for (p, b, t, text), ms in self.entries.items()
            if (p, b, t) == (phase, work.batch, tokens) and text.startswith("{")
            for here, found in (_split(text),)
            if here == form and set(found) == set(sizes)
        }
        whole = tuple(map(max, zip(*points, strict=True)))
        if whole not in points or not sizes:
            got = ", ".join(f"{axis} {size}" for axis, size in block.sizes.items())
            raise _unmeasured(
                f"{block.kind} block of {got}; {there}", "other blocks or workloads", work
            )
        base, found = points[whole], []
        for place, (axis, size) in enumerate(sizes.items()):
            if size == whole[place]:
                continue
            line = sorted(
                (point[place], ms)
                for point, ms in points.items()
                if all(
                    n == m for i, (n, m) in enumerate(zip(point, whole, strict=True)) if i != place
                )
            )
            at = [n for n, _ in line]
            if not at[0] <= size <= at[-1]:
                raise _unmeasured(
                    f"{block.kind} block with {axis} {size}, {there}",
                    f"{axis} {at[0]} to {at[-1]}",
                    work,
                )
            high = bisect_left(at, size)
            (x0, y0), (x1, y1) = line[high - 1], line[high]
            found.append(y0 + (y1 - y0) * (size - x0) / (x1 - x0))
        return found[0] if len(found) == 1 else base * prod(ms / base for ms in found)

    def save(self, path: Path) -> None:
        """Write JSON."""
        rows = [
            {"phase": p, "batch": b, "tokens": t, "block": k, "ms": ms}
            for (p, b, t, k), ms in self.entries.items()
        ]
        write_json(path, {"schema": SCHEMA, **self.meta, "entries": rows})

    @staticmethod
    def load(path: Path, *, device: str = "", dtype: str = "") -> LatencyTable:
        """Read a table. Raises: UserError where it is missing, or of another device or dtype than
        requested ("" for any).
        """
        again = "Run minipuzzle profile again."
        stored = read_json(path, next=again)
        if (
            not isinstance(stored, dict)
            or stored.get("schema") != SCHEMA
            or "entries" not in stored
        ):
            found = stored.get("schema") if isinstance(stored, dict) else type(stored).__name__
            raise UserError(
                f"{path} is not a latency table.",
                got=f"schema {found}",
                allowed=f"schema {SCHEMA}",
                next="Run minipuzzle profile.",
            )
        require(stored, _Stored, what=str(path), next=again)
        for name, requested in (("device", device), ("dtype", dtype)):
            if requested and requested.lower() not in str(stored[name]).lower():
                raise UserError(
                    f"The latency table is of another {name} than requested.",
                    got=stored[name],
                    allowed=requested,
                    next=(
                        f"Run minipuzzle profile on {requested}, or ask for the table's with"
                        f" search.target_{name}."
                    ),
                )
        entries = {
            (r["phase"], r["batch"], r["tokens"], r["block"]): float(r["ms"])
            for r in stored["entries"]
        }
        return LatencyTable(
            meta={k: v for k, v in stored.items() if k not in ("schema", "entries")},
            entries=entries,
        )


def describe(block: Block) -> str:
    """A block as JSON: what distinguishes its time from another's. Defaults are left out, so that a
    field which is new to blocks does not make tables unreadable that were measured before it.
    """
    return json.dumps(block.identity(), sort_keys=True)


def surroundings(parent: Architecture) -> str:
    """The name of everything that is no block."""
    return f"embedding, norm and head of {parent.vocab_size} x {parent.hidden}"


def varied(kind: type[Block] | Block) -> tuple[Width, ...]:
    """The widths that tables vary: those that a search chooses without being told."""
    widths = kind.own_widths if isinstance(kind, Block) else kind.widths
    return tuple(width for width in widths if width.usual)


def _field(kind: type[Block], fields: dict[str, Any], axis: str) -> Any:
    """The size of an axis in a description, which leaves out what is at its default."""
    return fields.get(axis, getattr(kind, axis, None))


@lru_cache(maxsize=1 << 14)
def _split(text: str) -> tuple[str, dict[str, int]]:
    """A description without the sizes that tables vary, and these; what follows an axis is named by
    its share. An axis of size 0 is none.
    """
    fields = json.loads(text)
    kind, sizes = KINDS[fields["kind"]], {}
    for width in varied(kind):
        size = _field(kind, fields, width.axis)
        if size:
            sizes[width.axis] = size
        if width.follows in fields and size:
            fields[width.follows] //= size
        fields.pop(width.axis, None)
    return json.dumps(fields, sort_keys=True), sizes


def _unmeasured(got: str, allowed: str, work: Generation) -> UserError:
    return UserError(
        "The latency table has no such time.",
        got=got,
        allowed=f"what was measured: {allowed}",
        next=f"Run minipuzzle profile with profile.workload {work}, and more profile.widths if a"
        " size is missing.",
    )
