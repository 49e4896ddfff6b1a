"""What studies/solver.py found, as counts of verdicts and a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table

SAME = 1e-9


SMALL = 1e-3


VERDICTS = ("better", "equal", "worse", "only ours", "only theirs")


def verdict(row: dict[str, Any]) -> str:
    """Our damage against theirs in one of ``VERDICTS``; "only ours", "only theirs" where one found
    nothing that fits.
    """
    ours, theirs = row["ours"]["damage"], row["modelopt"]["damage"]
    if theirs is None or row["modelopt"]["excess"] > 0:
        return "only ours"
    if ours is None:
        return "only theirs"
    if abs(ours - theirs) <= SAME * max(abs(theirs), 1e-300):
        return "equal"
    return "better" if ours < theirs else "worse"


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a kind and size: verdicts, median and worst times, the median of the ratios theirs
    / ours.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["blocks"], row["choices"], row["budgets"]), []).append(
            row
        )
    summary = []
    for (kind, blocks, choices, budgets), group in groups.items():
        said = [verdict(row) for row in group]
        gaps = [row["ours"]["gap"] for row in group if row["ours"]["gap"] is not None]
        summary.append(
            {
                "kind": kind,
                "blocks": blocks,
                "choices": choices,
                "budgets": budgets,
                "instances": len(group),
                **{word: said.count(word) for word in VERDICTS},
                "our_largest_gap": max(gaps, default=None),
                "ours": times(group, "ours"),
                "modelopt": times(group, "modelopt"),
                **{f"{unit}_ratio": ratio(group, unit) for unit in ("seconds", "cpu_seconds")},
            }
        )
    return summary


def times(group: list[dict[str, Any]], who: str) -> dict[str, float | None]:
    """Median and largest wall and CPU seconds; None where all failed."""
    found = {}
    for unit in ("seconds", "cpu_seconds"):
        known = [row[who][unit] for row in group if row[who][unit] is not None]
        found |= {
            f"{unit}_median": float(np.median(known)) if known else None,
            f"{unit}_worst": max(known, default=None),
        }
    return found


def ratio(group: list[dict[str, Any]], unit: str) -> float | None:
    """Median over instances of run_mip's time over ours: above 1 we are faster."""
    known = [
        row["modelopt"][unit] / row["ours"][unit]
        for row in group
        if row["modelopt"][unit] is not None
    ]
    return float(np.median(known)) if known else None


def table(summary: list[dict[str, Any]]) -> Table:
    """The summary to look at."""
    shown = Table(title="our solver against run_mip: wall and CPU seconds, median (worst)")
    names = (
        "instances",
        "blocks x choices, budgets",
        " / ".join(VERDICTS),
        "ours wall",
        "run_mip wall",
        "ours CPU",
        "run_mip CPU",
        "CPU, run_mip / ours",
        "our largest gap",
    )
    for name in names:
        shown.add_column(name, justify="right")
    for s in summary:
        spent = [
            span(s[who], unit)
            for unit in ("seconds", "cpu_seconds")
            for who in ("ours", "modelopt")
        ]
        shown.add_row(
            f"{s['instances']} {s['kind']}",
            f"{s['blocks']} x {s['choices']}, {s['budgets']}",
            " / ".join(str(s[word]) for word in VERDICTS),
            *spent,
            "-" if s["cpu_seconds_ratio"] is None else f"{s['cpu_seconds_ratio']:.2f}",
            "-" if s["our_largest_gap"] is None else f"{s['our_largest_gap']:.0e}",
        )
    return shown


def span(spent: dict[str, float | None], unit: str) -> str:
    """A median and the worst time."""
    median, worst = spent[f"{unit}_median"], spent[f"{unit}_worst"]
    return "-" if median is None or worst is None else f"{median:.2f} ({worst:.2f})"
