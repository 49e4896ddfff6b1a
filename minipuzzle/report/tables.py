"""Results as tables for the terminal."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from minipuzzle.cost.latency import LatencyTable
from minipuzzle.report.facts import domain_rows, domains_title
from minipuzzle.report.strip import strip_text
from minipuzzle.scores import Scores
from minipuzzle.units import bytes_, count, percent

SHOWN = 10


def scores_table(pattern: str, scores: Scores) -> RenderableType:
    """Each block's score, its rank among all, and how unevenly its channels matter."""
    table = Table(
        title="importance (MSE before the head when the block is removed)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in (
        "block",
        "kind",
        "score",
        "rank",
        "share of squared score in the best half of channels",
    ):
        table.add_column(column, justify="left" if column == "kind" else "right")
    order = np.argsort(-scores.blocks, kind="stable")
    rank = {int(block): place for place, block in enumerate(order, start=1)}
    for i, letter in enumerate(pattern):
        channels = scores.of(i).get("intermediate")
        if (of_heads := scores.of(i).get("head_channels")) is not None:
            channels = np.sqrt(np.square(of_heads).sum(axis=1))
        half = ""
        if channels is not None:
            squares = np.sort(np.square(channels))[::-1]
            half = percent(squares[: len(squares) // 2].sum(), squares.sum())
        table.add_row(str(i), strip_text(letter), f"{scores.blocks[i]:.4g}", str(rank[i]), half)
    return table


def candidates_table(search: dict[str, Any]) -> RenderableType:
    """The best candidates of a search, and the strips of those that go on under their parent's."""
    table = Table(title=_funnel(search), title_justify="left", box=box.SIMPLE_HEAD)
    rows, narrower = search["candidates"], len(search["bounds"]["hidden"]) > 1
    hidden = ("hidden",) if narrower else ()
    for column in (
        "rank",
        "name",
        "attn",
        "FFN",
        "Mamba",
        "FFN width",
        "heads",
        *hidden,
        "parameters",
        "memory",
        "damage",
        "next token",
        "agreement",
        "loss",
        "KL",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows[:SHOWN]:
        s = row["shape"]
        table.add_row(
            str(row["rank"]),
            row["name"],
            str(s["attention"]),
            str(s["mlp"]),
            str(s["mamba"]),
            str(s["intermediate"]),
            str(s["heads"]),
            *(str(s[name]) for name in hidden),
            count(row["parameters"]),
            bytes_(row["bytes"]),
            f"{row['damage']:.3g}",
            percent(row["next_token_accuracy"], 1),
            percent(row["agreement"], 1),
            f"{row['loss']:.4f}",
            f"{row['kl']:.4f}",
            style="bold" if row["name"] in search["top"] else "",
        )
    parent = search["parent"]
    strips = Text.assemble(
        "parent  ", strip_text(parent["pattern"]), f"  {count(parent['parameters'])}\n"
    )
    for row in [row for row in rows if row["name"] in search["top"]]:
        size = f"  {count(row['parameters'])}" + (
            f", hidden size {row['shape']['hidden']}" if narrower else ""
        )
        strips.append_text(
            Text.assemble(f"{row['name']:<7} ", strip_text(row["strip"]), f"{size}\n")
        )
    return Group(table, strips)


def plan_view(summary: dict[str, Any], maximal: list[dict[str, Any]]) -> RenderableType:
    """What fits a budget, from a config.json alone."""
    bounds = summary["bounds"]
    title = (
        f"{summary['feasible']:,} of {summary['points']:,} architectures fit"
        f" {' and '.join(summary['budget']['text'])}; {len(maximal)} are maximal"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    hidden = ("hidden",) if len(bounds["hidden"]) > 1 else ()
    for column in (
        "attention",
        "FFN",
        "Mamba",
        "FFN width",
        "heads",
        *hidden,
        "parameters",
        "memory",
    ):
        table.add_column(column, justify="right")
    for row in maximal[:SHOWN]:
        sizes = ("attention", "mlp", "mamba", "intermediate", "heads", *hidden)
        table.add_row(
            *(str(row[name]) for name in sizes), count(row["parameters"]), bytes_(row["bytes"])
        )
    ranges = ", ".join(f"{k} {bounds[k][0]}..{bounds[k][1]}" for k in ("attention", "mlp", "mamba"))
    widths = bounds["intermediate"]
    narrower = f", hidden sizes {bounds['hidden']}" if hidden else ""
    said = "".join(f"\nnot pruned: {sentence}" for sentence in summary["not_pruned"])
    return Group(
        table,
        Text(
            f"space: {ranges}, {len(widths)} widths {widths[0]}..{widths[-1]}, heads"
            f" {bounds['heads']}{narrower}; scores and weights are needed to go on{said}",
            style="dim",
        ),
    )


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
            count(r["parameters"]),
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
    if not text.startswith("{"):
        return text
    block = json.loads(text)
    sizes = {
        "mlp": ("intermediate",),
        "mamba": ("heads", "head_dim", "state"),
        "attention": ("q_heads", "kv_heads"),
    }
    return f"{block['kind']} " + ", ".join(f"{name} {block[name]}" for name in sizes[block["kind"]])


def eval_table(result: dict[str, Any]) -> RenderableType:
    """Teacher, pruned model and student side by side, then their losses by domain where the text
    has several.
    """
    title = f"{result['tokens']:,} tokens the search never saw, on {result['device']}"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    for column in (
        "",
        "parameters",
        "memory",
        "loss",
        "perplexity",
        "bits/byte",
        "KL",
        "agreement",
        "next token",
        "tokens/s",
    ):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    first = result["rows"][0]
    for row in result["rows"]:
        table.add_row(
            row["name"],
            f"{count(row['parameters'])} {percent(row['parameters'], first['parameters'])}",
            bytes_(row["memory_bytes"]),
            f"{row['loss']:.4f} {100 * (row['loss'] / first['loss'] - 1):+.2f} %",
            f"{row['perplexity']:.2f}",
            f"{row['bits_per_byte']:.4f}",
            f"{row['kl']:.4f}",
            percent(row["agreement"], 1),
            percent(row["next_token_accuracy"], 1),
            f"{row['tokens_per_second']:,.0f}"
            f" {row['tokens_per_second'] / first['tokens_per_second']:.2f}x",
        )
    rows = domain_rows(result)
    if not rows:
        return table
    parts = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for column in ("", "tokens", *(row["name"] for row in result["rows"])):
        parts.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for row in rows:
        parts.add_row(
            Text(row["name"]), row["tokens"], row["loss"], *row["others"]
        )  # a file's name, not markup
    return Group(table, Text(domains_title(result), style="italic"), parts)


def tasks_table(result: dict[str, Any]) -> RenderableType:
    """lm-eval's metrics with their standard errors, one column a checkpoint."""
    names, lines = by_task(result)
    title = f"lm-eval, on {result['device']}" + (
        f", {result['limit']} examples of each" if result["limit"] else ""
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("task", "metric", "examples", *names):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for line in lines:
        table.add_row(line["task"], line["metric"], line["samples"], *line["values"])
    return table


def by_task(result: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The checkpoints' names, and for each task and metric their values as text: "0.4120 ±
    0.0156".
    """
    names = list(dict.fromkeys(row["name"] for row in result["rows"]))
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in result["rows"]:
        better = {True: " (higher is better)", False: " (lower is better)"}.get(
            row["higher_is_better"], ""
        )
        empty = {
            "task": row["task"],
            "metric": row["metric"] + better,
            "samples": str(row["samples"] or ""),
            "values": {},
        }
        error = "" if row["stderr"] is None else f" ± {row['stderr']:.4f}"
        line = lines.setdefault((row["task"], row["metric"]), empty)
        line["values"][row["name"]] = f"{row['value']:.4f}{error}"
    return names, [
        {**line, "values": [line["values"].get(name, "") for name in names]}
        for line in lines.values()
    ]


def _funnel(search: dict[str, Any]) -> str:
    steps = [
        f"{search['points']:,} points",
        f"{search['feasible']:,} fit {' and '.join(search['budget']['text'])}",
    ]
    steps += [f"{len(search['candidates'])} realised", f"{len(search['top'])} kept"]
    return " -> ".join(steps)
