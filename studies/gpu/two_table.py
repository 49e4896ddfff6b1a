"""The tables of docs/results/two_gpus.md, from the files that two.py brought."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minipuzzle.memory.training import HELD_BACK

GIB = 2**30
WITH, WITHOUT = "checkpointing", "all kept"


def tables(folder: Path) -> str:
    """Markdown: what ran, a part at a time."""
    rows = {
        part: json.loads((folder / f"{part}.json").read_text())
        for part in ("tests", "plan", "bf16", "fp8", "pair", "resume", "context")
        if (folder / f"{part}.json").exists()
    }
    each = [rows.pop(part, {}) for part in ("plan", "bf16", "fp8", "pair")]
    rows["distill"] = {name: row for part in each for name, row in part.items()}
    makers = {"tests": tested, "distill": speeds, "resume": resumed, "context": divided}
    parts = [makers[part](rows[part], rows) for part in rows]
    return "\n\n".join(part for part in [*parts, exchanged(rows)] if part)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column on the left, numbers on the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tested(part: dict[str, Any], rows: dict[str, Any]) -> str:
    """What pytest said last."""
    if "tests" not in part:
        return "tests: not run"
    row = part["tests"]
    said = [line for line in row["said"] if line.strip()]
    return f"tests ({row['seconds']:.0f} s): " + said[-1].strip("= ")


def planned(rows: dict[str, Any], cards: int, precision: str = "bf16") -> dict[str, Any]:
    """The plan's row of a number of cards, with a teacher in a precision."""
    plan = rows["distill"][f"plan-{precision}"]["plan"]
    return next(row for row in plan["rows"] if row["gpus"] == cards)


def speeds(part: dict[str, Any], rows: dict[str, Any]) -> str:
    """Speed and memory of each distillation, beside one card's and the plan's."""
    if not all("plan" in part.get(f"plan-{precision}", {}) for precision in ("bf16", "fp8")):
        return "distill: no plan was made"
    made = []
    for name, row in part.items():
        precision = name.split("-")[0]
        if precision == "plan" or not row["done"]:
            continue
        one = part.get(f"{precision}-1", {}).get("tokens_per_second")
        rate = row.get("tokens_per_second")
        made.append(
            [
                name,
                f"{row['step_s'] * 1e3:,.0f}" if rate else "",
                f"{rate:,.0f}" if rate else "",
                f"{rate / one:.2f}" if rate and one else "",
                *memory(row, rows, precision),
                last_loss(row),
            ]
        )
    head = ["precision, cards", "ms a step", "tokens/s", "of one card", "GiB allocated a card"]
    return table([*head, "planned", "off", "used on the card", "loss of the last row"], made)


def memory(row: dict[str, Any], rows: dict[str, Any], precision: str) -> list[str]:
    """Allocated in steps, the plan's without what it holds back, how far off, and what was used on
    the card.
    """
    cards = row.get("each") or [row]
    kept = WITH if any("activation checkpointing" in told for told in row["told"]) else WITHOUT
    told = (planned(rows, row["cards"], precision)["bytes"][kept] - HELD_BACK) / GIB
    if "gpu_steps" not in cards[0]:
        return ["", f"{told:.1f}", "", ""]
    taken = [card["gpu_steps"] / GIB for card in cards]
    used = ", ".join(f"{card['gpu_used'] / GIB:.1f}" for card in cards)
    each = ", ".join(f"{gib:.1f}" for gib in taken)
    return [each, f"{told:.1f}", f"{max(taken) / told - 1:+.1%}", used]


def losses(row: dict[str, Any]) -> dict[int, float]:
    """By step, of log.csv."""
    head, *lines = [line.split(",") for line in row["log"]]
    place = head.index("loss")
    return {int(line[0]): float(line[place]) for line in lines}


def last_loss(row: dict[str, Any]) -> str:
    """Of log.csv."""
    return f"{list(losses(row).values())[-1]:.5f}"


def resumed(part: dict[str, Any], rows: dict[str, Any]) -> str:
    """Losses of the run that moved beside those of the one that stayed on two cards."""
    whole = rows.get("distill", {}).get("bf16-2", {})
    if not part.get("two-again", {}).get("done") or not whole.get("done"):
        return ""
    stayed, moved = losses(whole), losses(part["two-again"])
    cards = dict(zip(moved, (2, 1, 2), strict=False))
    made = [
        [f"{step}, on {cards.get(step, 2)}", f"{stayed[step]:.5f}", f"{loss:.5f}"]
        + [f"{abs(loss / stayed[step] - 1):.1e}"]
        for step, loss in moved.items()
    ]
    said = [line for row in part.values() for line in row["told"] if "going on" in line]
    return table(["step", "stayed on 2 cards", "moved", "off"], made) + "\n\n" + "\n".join(said)


def divided(part: dict[str, Any], rows: dict[str, Any]) -> str:
    """Sequences on one card and on two."""
    made = []
    for stage in part.values():
        found = stage.get("context", {}).get("rows", [])
        one = next((row for row in found if row["parts"] == 1 and "error" not in row), None)
        for row in found:
            place = [f"{row['length']:,}", f"{row['parts']}"]
            if "error" in row:
                made.append([*place, row["error"].splitlines()[0] if row["error"] else "failed"])
                continue
            peak = "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
            off = (
                max(abs(b / a - 1) for a, b in zip(one["losses"], row["losses"], strict=True))
                if one
                else 0.0
            )
            made.append(
                [
                    *(*place, f"{row['seconds'] * 1e3:,.0f}", f"{row['tokens_per_second']:,.0f}"),
                    *(peak, f"{row['estimate_gib']:.1f}", f"{off:.1e}"),
                ]
            )
    head = ["tokens", "cards", "ms a step", "tokens/s", "GiB a card", "estimated", "losses off"]
    return table(head, made)


def exchanged(rows: dict[str, Any]) -> str:
    """Bytes and seconds of a step's exchange, beside the plan's."""
    row = rows.get("resume", {}).get("two-again", {})
    if "traffic" not in row or "plan" not in rows.get("distill", {}).get("plan-bf16", {}):
        return ""
    found, others = row["traffic"], row["traffic"]["world"] - 1
    steps, told = found["steps"], planned(rows, found["world"])
    sent = {name: size * others / steps / 1e9 for name, size in found["part_bytes"].items()}
    seconds = told["exchange"] or 0.0
    made = [
        ["GB that a card sends, gathered", f"{sent['all_gather']:.3f}", ""],
        ["GB that a card sends, summed", f"{sent['reduce_scatter']:.3f}", ""],
        ["GB, both", f"{sum(sent.values()):.3f}", f"{told['exchanged'] / 1e9:.3f}"],
        ["seconds of exchange", f"{found['nccl_s'] / steps:.4f}", f"{seconds:.4f}"],
        ["of them with nothing beside them", f"{found['exposed_s'] / steps:.4f}", ""],
        ["seconds of other kernels", f"{found['compute_s'] / steps:.4f}", f"{told['seconds']:.4f}"],
    ]
    return table([f"a step on {found['world']} cards", "measured", "planned"], made)
