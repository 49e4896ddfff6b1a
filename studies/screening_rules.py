"""The rules of who goes on that studies/screening.py plays on its numbers, and their table."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import kept

WAYS = {  # name -> (the way that it goes on from, tokens, batch)
    "67k": ("", 66_667, 16),
    "67k small": ("", 66_667, 4),
    "67k + 133k": ("67k", 133_333, 16),
    "67k small + 133k": ("67k small", 133_333, 16),
    "200k": ("", 200_000, 16),
}


SCREENINGS = ("kl", "67k", "67k small")


SHORTS = ("67k + 133k", "67k small + 133k", "200k")


SEATS: dict[str, Callable[[dict[str, Any]], bool]] = {  # who goes on whatever the screening says
    "none": lambda row: False,
    "the solver's optimum": lambda row: bool(row["optimum"]),
    "first two": lambda row: row["place"] < 2,
}


class Rule(NamedTuple):
    """So many of the short list have a screening run; these seats and the best of it go on to the
    short run, whose winner is taken.
    """

    pool: int
    screening: str
    seats: str
    on: int
    short: str

    def goers(self, group: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The candidates of a budget that go on."""
        entered = sorted(group, key=lambda row: row["place"])[: self.pool]
        order = sorted(
            entered,
            key=lambda row: row["kl"] if self.screening == "kl" else row["ways"][self.screening],
        )
        seated = [row for row in entered if SEATS[self.seats](row)]
        return (seated + [row for row in order if row not in seated])[: self.on]

    def winner(self, group: list[dict[str, Any]]) -> dict[str, Any]:
        """Who is taken."""
        return min(self.goers(group), key=lambda row: row["ways"][self.short])

    @property
    def cost(self) -> float:
        """1,000 tokens of training: a short run after a screening run with the same tokens does not
        train them twice.
        """
        before, tokens, _ = WAYS[self.short]
        if before and before != self.screening:
            tokens += WAYS[before][1]
        screened = (
            0
            if self.screening == "kl" or self.on >= self.pool
            else self.pool * WAYS[self.screening][1]
        )
        return (screened + self.on * tokens) / 1000


BEFORE, NOW = (
    Rule(9, "67k", "none", 3, "67k + 133k"),
    Rule(9, "67k small", "none", 3, "67k small + 133k"),
)


SHOWN = (
    BEFORE,
    NOW,
    NOW._replace(seats="the solver's optimum"),
    NOW._replace(on=4),
    NOW._replace(pool=12),
    NOW._replace(short="67k + 133k"),
    NOW._replace(short="200k"),
    BEFORE._replace(short="67k small + 133k"),
    NOW._replace(pool=6, screening="kl", on=5),
)
"""What the page compares with the cheapest: the rule of minipuzzle distill, that of before, and one
thing changed.
"""


def rules() -> list[Rule]:
    """All that make sense, cheapest first."""
    found = [
        Rule(pool, screening, seats, on, short)
        for pool in (6, 9, 12)
        for screening in SCREENINGS
        for seats in SEATS
        for on in (2, 3, 4, 5)
        for short in SHORTS
        if screening != "kl" or pool == 6
    ]
    return sorted(found, key=lambda rule: rule.cost)


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a run, or of docs/results/screening.json.xz (columns and ways named once)."""
    data = kept.read(file)
    if "columns" not in data:
        return list(data["rows"])
    rows = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]
    return [{**row, "ways": dict(zip(data["ways"], row["ways"], strict=True))} for row in rows]


def report(rows: list[dict[str, Any]]) -> str:
    """Markdown: the rules that no cheaper rule beats in mean regret over all budgets, and those
    SHOWN.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["teacher"], row["budget"]), []).append(row)
    head = (
        "candidates",
        "screening",
        "seats",
        "go on",
        "short run",
        "1,000 tokens",
        "mean regret",
        "largest",
        "at",
        "behind the optimum",
        "at most",
    )
    lines = ["| " + " | ".join(head) + " |", "|--:|---|---|--:|---|--:|--:|--:|---|--:|--:|"]
    best = float("inf")
    for rule in rules():
        won = {key: rule.winner(group) for key, group in groups.items()}
        regrets = {
            key: won[key]["truth"] - min(row["truth"] for row in group)
            for key, group in groups.items()
        }
        solved = {
            key: row["truth"] for key, group in groups.items() for row in group if row["optimum"]
        }
        behind = [max(0.0, won[key]["truth"] - truth) for key, truth in solved.items()]
        mean, worst = statistics.fmean(regrets.values()), max(regrets, key=regrets.__getitem__)
        if mean < best or rule in SHOWN:
            best = min(best, mean)
            row = (
                *rule,
                f"{rule.cost:,.0f}",
                f"{mean:.4f}",
                f"{regrets[worst]:.4f}",
                " ".join(worst),
                f"{statistics.fmean(behind):.4f}",
                f"{max(behind):.4f}",
            )
            lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)
