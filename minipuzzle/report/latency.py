"""What ``minipuzzle profile`` measured."""

from __future__ import annotations

import json

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from minipuzzle.cost.latency import LatencyTable
from minipuzzle.kinds import KINDS
from minipuzzle.units import both


def profile_table(table: LatencyTable) -> RenderableType:
    """Measured blocks, and sums of blocks against whole models."""
    shown = Table(title=table.source, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("phase", "batch", "tokens", "block", "ms"):
        shown.add_column(
            column, justify="left" if column in ("phase", "block") else "right", no_wrap=True
        )
    for (phase, batch, tokens, text), ms in table.entries.items():
        shown.add_row(phase, str(batch), f"{tokens:,}", _block_name(text), f"{ms:.4f}")
    checked = Table(
        title="sum of blocks against the whole model", title_justify="left", box=box.SIMPLE_HEAD
    )
    for column in (
        "pattern",
        "parameters",
        "phase",
        "workload",
        "predicted ms",
        "measured ms",
        "error",
        "predicted speed-up",
        "measured",
        "error",
    ):
        checked.add_column(
            column, justify="left" if column in ("pattern", "phase", "workload") else "right"
        )
    for r in table.meta["additivity"]:
        checked.add_row(
            r["pattern"],
            ", ".join(both(r["parameters"], r.get("active"), " active")),
            r["phase"],
            r["workload"],
            f"{r['predicted_ms']:.3f}",
            f"{r['measured_ms']:.3f}",
            f"{100 * r['error']:+.1f} %",
            f"{r['predicted_speedup']:.3f}x",
            f"{r['measured_speedup']:.3f}x",
            f"{100 * r['speedup_error']:+.1f} %",
        )
    return Group(shown, checked) if table.meta["additivity"] else shown


def _block_name(text: str) -> str:
    """A block of the table by its kind and sizes; what surrounds blocks as it is named there."""
    if not text.startswith("{"):
        return text
    block = json.loads(text)
    sizes = {name: size for name, size in block.items() if type(size) is int and name != "hidden"}
    return f"{KINDS[block['kind']].label} " + ", ".join(f"{n} {size}" for n, size in sizes.items())
