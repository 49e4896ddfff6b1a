"""What ``minipuzzle bench`` shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from minipuzzle.generation.result import BenchPlan, BenchResult
from minipuzzle.units import both, bytes_

RATES = ("prefill_tokens_per_s", "decode_tokens_per_s", "tokens_per_s")


def bench_table(result: BenchResult) -> RenderableType:
    """Speeds with their ratios to the first model's, then predicted and measured memory."""
    kinds = (
        result.dtype
        if result.weights == result.dtype
        else f"{result.dtype}, weights {result.weights}"
    )
    title = f"{result.prompt:,} tokens in, {result.output:,} out, {kinds}, {result.device}"
    speeds = _table(
        title,
        "model",
        "parameters",
        "batch",
        "first token",
        "prefill tokens/s",
        "decode tokens/s",
        "ms a step",
        "output tokens/s",
    )
    first = result.rows[0]
    for row in result.rows:
        rates = [_rate(getattr(row, key), getattr(first, key)) for key in RATES]
        step = "" if row.step_ms is None else f"{row.step_ms:.2f}"
        speeds.add_row(
            row.name,
            ", ".join(both(row.parameters, row.active, " active")),
            str(row.work.batch),
            f"{row.speed.first_token_s:.2f} s",
            *rates[:2],
            step,
            rates[2],
        )
    memory = _table(
        "memory at most",
        "model",
        "weights",
        "keys, values",
        "SSM states",
        "activations",
        "logits",
        "predicted",
        "measured",
        "reserved",
    )
    for row in result.rows:
        peak, predicted = row.speed.peak_bytes, row.predicted.total
        measured = "-" if peak is None else f"{bytes_(peak)} {100 * (predicted / peak - 1):+.1f} %"
        memory.add_row(
            row.name,
            *(bytes_(row.predicted[k]) for k in TERMS),
            bytes_(predicted),
            measured,
            "-" if peak is None else bytes_(row.speed.reserved_bytes or 0),
        )
    return Group(speeds, memory, Text("\n".join(_notes(result)), style="dim"))


TERMS = ("weights", "kv", "states", "activations", "logits")


def plan_table(rows: Sequence[BenchPlan], prompt: int, output: int) -> RenderableType:
    """Predicted memory of one row, and the largest batch on each card."""
    cards = list(rows[0].batches)
    table = _table(
        f"{prompt:,} tokens in, {output:,} out: predicted for one row, and how many fit",
        "model",
        "in",
        "weights",
        "keys, values",
        "SSM states",
        "activations",
        "together",
        *cards,
    )
    for row in rows:
        peak = row.peak
        table.add_row(
            row.name,
            row.weights,
            *(bytes_(peak[k]) for k in TERMS[:-1]),
            bytes_(peak.total),
            *(f"{row.batches[card]:,}" for card in cards),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _rate(value: float | None, first: float | None) -> str:
    if value is None or first is None:
        return ""
    show: Callable[[float], str] = lambda v: f"{v:,.0f}" if v >= 100 else f"{v:.1f}"  # noqa: E731
    return f"{show(value)} {value / first:.2f}x"


def _notes(result: BenchResult) -> list[str]:
    notes = [
        f"batch: {result.batch}; Mamba states in {result.state_dtype}; first token: all rows"
        " have theirs; output tokens/s: over reading and decoding"
    ]
    for row in result.rows:
        if row.speed.rows_read < row.work.batch or row.speed.steps < result.output - 1:
            notes.append(
                f"{row.name}: {row.speed.rows_read} of {row.work.batch} rows were read and"
                f" {row.speed.steps} of {result.output - 1} steps taken; times are those of all in"
                " proportion"
            )
    return notes
