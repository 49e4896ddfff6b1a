"""The table and picture of docs/results/embedded.md, from embedded.json.xz beside it: python
studies/quality_table.py
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import kept

from minipuzzle.report.svg import save_png

FOLDER = Path(__file__).parent.parent / "docs" / "results"
ORDER = (
    "ours, 5 % of teacher's tokens",
    "ours",
    "width only",
    "depth only",
    "random scores",
    "magnitude scores",
    "ours, cross-entropy",
    "same shape from scratch",
)
MARK = "<!-- table -->"


def main() -> None:
    """Rewrite what stands between the marks of embedded.md, and the picture."""
    data = kept.read(FOLDER / "embedded.json.xz")
    runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in data["runs"]:
        runs[run["budget"], run["row"]].append(run)
    teacher = data["teacher"]["loss"]
    lines = [
        (
            "| budget | what is cut, how it is recovered | parameters | tokens | loss before | loss"
            " after (3 seeds) | against the parent | KL | agreement |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
        f"| | parent | {data['teacher']['parameters']:,} | 200 M | | {teacher:.4f} | | 0 | 100 % |",
    ]
    for budget in ("83%", "60%"):
        for row in ORDER:
            if (budget, row) in runs:
                lines.append(line(budget, row, runs[budget, row], data, teacher))
    page = FOLDER / "embedded.md"
    before, _, after = page.read_text().split(MARK)
    page.write_text(f"{before}{MARK}\n" + "\n".join(lines) + f"\n{MARK}{after}")
    save_png(lambda axes: draw(axes, runs, teacher), FOLDER / "embedded.png", (8, 3.6))


def line(
    budget: str, row: str, runs: list[dict[str, Any]], data: dict[str, Any], teacher: float
) -> str:
    """One row of the table."""
    student = data["students"].get(f"{budget} {row}", data["students"][f"{budget} ours"])
    after = [r["after"]["loss"] for r in runs]
    kl, agreement = (mean(r["after"][k] for r in runs) for k in ("kl", "agreement"))
    return (
        f"| {budget} | {row} `{student['pattern']}` | {student['parameters']:,} |"
        f" {runs[0]['tokens'] / 1e6:.0f} M | {mean(r['before']['loss'] for r in runs):.3f} |"
        f" {mean(after):.4f} ± {stdev(after):.4f} | {100 * (mean(after) / teacher - 1):+.1f} % |"
        f" {kl:.3f} | {100 * agreement:.1f} % |"
    )


def draw(axes: Any, runs: dict[tuple[str, str], list[dict[str, Any]]], teacher: float) -> None:
    """Bars: loss above the parent's, in per cent; from scratch is left out (off the scale)."""
    rows = [r for r in ORDER if r != "same shape from scratch"]
    for offset, (budget, color) in enumerate((("83%", "#4c78c8"), ("60%", "#d9822b"))):
        shown = [(i, r) for i, r in enumerate(rows) if (budget, r) in runs]
        values = [
            100 * (mean(x["after"]["loss"] for x in runs[budget, r]) / teacher - 1)
            for _, r in shown
        ]
        axes.barh(
            [i + 0.4 * offset for i, _ in shown],
            values,
            height=0.38,
            color=color,
            label=f"{budget} of parameters",
        )
    axes.axvline(2, color="#8a8f98", linestyle="--", linewidth=1)
    axes.set_yticks([i + 0.2 for i in range(len(rows))], rows)
    axes.invert_yaxis()
    axes.set_xlabel(
        "validation loss above the parent's after distillation (%); dashed: the target at 83 %"
    )
    axes.legend()


if __name__ == "__main__":
    main()
