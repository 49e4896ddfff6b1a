"""The tables of docs/results/peers.md from the JSON of studies/peers.py.

python studies/peers_table.py docs/results/peers.json.xz
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean
from typing import Any

import kept

Row = dict[str, Any]


def pruners(data: dict[str, Any]) -> list[str]:
    """One line a budget and pruner, lowest loss first, failures last; ours is the mean of its seeds
    and half their range.
    """
    lines = [
        (
            "| budget | pruner | parameters | what is left | loss before | after | CPU s (wall) |"
            " peak MiB | reloads |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for budget in data["budgets"]:
        groups: dict[str, list[Row]] = {}
        for row in sorted(data["rows"], key=lambda row: row.get("seed", 0)):
            if row["part"] == "pruner" and row["budget"] == budget:
                groups.setdefault(row["peer"], []).append(row)
        known = [group for group in groups.values() if "error" not in group[0]]
        failed = [group for group in groups.values() if "error" in group[0]]
        for group in sorted(known, key=lambda group: mean(row["after"] for row in group)):
            lines.append(_student(budget, group, data))
        for first in (group[0] for group in failed):
            lines.append(
                f"| {budget} | {first['peer']} | | {_why(first)} | | | {_took(first, 'prune')} | |"
            )
    return lines


def trainers(data: dict[str, Any]) -> list[str]:
    """One line a trainer, lowest loss first, failures last."""
    lines = [
        "| trainer | loss before | after | CPU s (wall) | peak MiB | reloads |",
        "|---|---|---|---|---|---|",
    ]
    rows = [row for row in data["rows"] if row["part"] == "trainer"]
    for row in sorted((row for row in rows if "error" not in row), key=lambda row: row["after"]):
        lines.append(
            f"| {row['peer']} | {row['before']:.4f} | {row['after']:.4f} | {_took(row, 'train')} |"
            f" {_reload(row)} |"
        )
    lines += [f"| {row['peer']} | | {_why(row)} | | | |" for row in rows if "error" in row]
    return lines


def _student(budget: str, group: list[Row], data: dict[str, Any]) -> str:
    first, losses = group[0], [row["after"] for row in group]
    spread = f" ± {(max(losses) - min(losses)) / 2:.4f}" if len(losses) > 1 else ""
    share = f"{first['parameters']:,} ({100 * first['parameters'] / data['parameters']:.1f} %)"
    over = "" if first["within"] else ", OVER the budget"
    left = f"`{first['pattern']}`, FFN {_sizes(first['widths'])}, heads {_sizes(first['heads'])}"
    return (
        f"| {budget} | {first['peer']} | {share}{over} | {left} | {first['before']:.4f} |"
        f" {mean(losses):.4f}{spread} | {_took(first, 'prune')} | {_reload(first)} |"
    )


def _sizes(sizes: list[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else " ".join(map(str, sizes)) or "none"


def _took(row: Row, what: str) -> str:
    cpu, wall, peak = (row.get(f"{what}_{unit}") for unit in ("cpu_seconds", "seconds", "peak_mib"))
    return " | " if cpu is None else f"{cpu:.0f} ({wall:.0f}) | {peak:,.0f}"


def _reload(row: Row) -> str:
    found = row["reload"]
    if found["how"] == "no":
        return "no: " + "; ".join(f"{how}: {why}" for how, why in found["why"].items())
    return f"{found['how']}, {found['difference']:.0e}"


def _why(row: Row) -> str:
    lost = row.get("reload", {}).get("why", {}).get("stock")
    return f"fails: {lost or row['error']}".replace("|", "/")


if __name__ == "__main__":
    whole = kept.read(Path(sys.argv[1]))
    print(f"teacher {whole['parameters']:,} parameters, loss {whole['teacher_loss']:.4f}\n")
    print("\n".join([*pruners(whole), "", *trainers(whole)]))
