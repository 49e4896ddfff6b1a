"""What studies/fp8_parity.py measured, as a table and a plot."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import kept
import numpy as np

from minipuzzle.artifacts import write_json

ARMS = {
    "bf16": ("bf16", 4),
    "fp8": ("fp8", 4),
    "fp8-all": ("fp8", 0),
    "emulated": ("fp8-emulated", 4),
}


LAST = 0.1


KEPT = Path(__file__).parent.parent / "docs" / "results" / "fp8.json.xz"


def report(folder: Path) -> None:
    """A table of the arms against BF16, their curves in fp8.json and fp8.png. An arm that is not
    done is not compared.
    """
    curves: dict[str, list[dict[str, float]]] = {}
    columns = kept.read(KEPT)["curves"]
    for arm in ARMS:
        if arm in columns:
            curves[arm] = [
                dict(zip(columns[arm], row, strict=True))
                for row in zip(*columns[arm].values(), strict=True)
            ]
        if (folder / f"{arm}.csv").exists():
            with (folder / f"{arm}.csv").open() as file:
                curves[arm] = [
                    {key: float(value) for key, value in row.items()}
                    for row in csv.DictReader(file)
                ]
    final: dict[str, Any] = {}
    for arm, rows in curves.items():
        end = rows[-1]["tokens"]
        tail = [row for row in rows if row["tokens"] > (1 - LAST) * end]
        final[arm] = {
            "tokens": end,
            "validation_loss": float(np.mean([r["validation_loss"] for r in tail])),
            "rows": len(tail),
        }
    base, whole = final["bf16"]["validation_loss"], max(row["tokens"] for row in final.values())
    print(f"{'arm':<10}{'tokens':>14}{'validation loss, last tenth':>30}{'against BF16':>15}")
    for arm, row in final.items():
        comparable = row["tokens"] == whole == final["bf16"]["tokens"]
        row["relative"] = row["validation_loss"] / base - 1 if comparable else None
        against = f"{row['relative']:>+15.3%}" if comparable else f"{'not done':>15}"
        print(f"{arm:<10}{row['tokens']:>14,.0f}{row['validation_loss']:>30.5f}{against}")
    shown = ("tokens", "train_loss", "validation_loss")
    columns = {
        arm: {name: [round(row[name], 5) for row in rows] for name in shown}
        for arm, rows in curves.items()
    }
    write_json(folder / "fp8.json", {"last_tenth": final, "curves": columns})
    plot(curves, folder / "fp8.png")


def plot(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Validation loss, and its difference from BF16's at the same token."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    base = {row["tokens"]: row["validation_loss"] for row in curves["bf16"]}
    for arm, rows in curves.items():
        x = [row["tokens"] / 1e6 for row in rows]
        left.plot(x, [row["validation_loss"] for row in rows], label=arm)
        both = [row for row in rows if row["tokens"] in base]
        apart = [100 * (row["validation_loss"] / base[row["tokens"]] - 1) for row in both]
        right.plot([row["tokens"] / 1e6 for row in both], apart, label=arm)
    left.set(
        xlabel="million tokens",
        ylabel="validation loss, nats/token",
        ylim=(None, base[max(base)] + 1.0),
    )
    right.set(xlabel="million tokens", ylabel="% of BF16's", ylim=(-1, 1))
    left.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)
