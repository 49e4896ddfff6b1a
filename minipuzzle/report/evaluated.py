"""What ``minipuzzle eval`` measured: rows of text, and tables for the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from minipuzzle.records import EvalResult, EvalRow, TaskRow, TasksResult
from minipuzzle.units import both, bytes_, count, percent


def eval_rows(measured: EvalResult) -> list[dict[str, str]]:
    """Teacher, pruned and student as text."""
    first = measured.rows[0]
    return [
        {
            "name": r.name,
            "parameters": ", ".join(both(r.parameters, r.active, " active")),
            "memory": bytes_(r.memory_bytes),
            "loss": f"{r.loss:.4f}",
            "change": change(r.loss, first.loss),
            "perplexity": f"{r.perplexity:.2f}",
            "bits": f"{r.bits_per_byte:.4f}",
            "kl": f"{r.kl:.4f}",
            "agreement": percent(r.agreement, 1),
            "accuracy": percent(r.next_token_accuracy, 1),
            "speed": f"{r.tokens_per_second:,.0f}",
        }
        for r in measured.rows
    ]


@dataclass(frozen=True, kw_only=True)
class DomainLine:
    """A domain as text: tokens, the first model's loss, that of each of the others."""

    name: str
    tokens: str
    loss: str
    others: list[str]


def domain_rows(measured: EvalResult) -> list[DomainLine]:
    """A row a domain of the text: tokens, the first model's loss, that of each other with its
    change. Empty where the text is of one domain.
    """
    first, *others = measured.rows
    return [
        DomainLine(
            name=name,
            tokens=f"{part.tokens:,}",
            loss=f"{part.loss:.4f}",
            others=[
                f"{r.domains[name].loss:.4f} {change(r.domains[name].loss, part.loss)}"
                for r in others
            ],
        )
        for name, part in first.domains.items()
    ]


def domains_title(measured: EvalResult) -> str:
    """Over ``domain_rows``: where the last model's loss grew most, "loss by domain; worst of the
    student: docs +2.10 %".
    """
    first, last = measured.rows[0], measured.rows[-1]
    changes = {name: part.loss / first.domains[name].loss for name, part in last.domains.items()}
    if len(measured.rows) == 1 or not changes:
        return "loss by domain"
    name = max(changes, key=changes.__getitem__)
    return f"loss by domain; worst of the {last.name}: {name} {change(changes[name], 1.0)}"


def cost_rows(measured: EvalResult) -> list[dict[str, str]]:
    """Predicted against measured costs as text."""

    def shown(value: float, unit: str) -> str:
        return (
            bytes_(value)
            if unit == "bytes"
            else f"{value:,.3f} ms"
            if unit == "ms"
            else f"{value:,.0f}"
        )

    return [
        {
            "what": r.what,
            "predicted": shown(r.predicted, r.unit),
            "measured": shown(r.measured, r.unit),
            "error": ("exact" if r.predicted == r.measured else change(r.predicted, r.measured)),
        }
        for r in measured.costs
    ]


def change(after: float, before: float) -> str:
    """The relative change, "+1.92 %"; "none" from nothing."""
    return "none" if before == 0 else f"{100 * (after / before - 1):+.2f} %"


@dataclass(frozen=True, kw_only=True)
class TaskLine:
    """A metric of a task as text: one of ``values`` for each checkpoint."""

    task: str
    metric: str
    samples: str
    values: list[str]


def eval_table(result: EvalResult) -> RenderableType:
    """Teacher, pruned model and student side by side, then their losses by domain where the text
    has several.
    """
    title = f"{result.tokens:,} tokens the search never saw, on {result.device}"
    sparse = any(row.active is not None for row in result.rows)
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    for column in (
        "",
        "parameters",
        *(["active"] if sparse else []),
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
    first = result.rows[0]
    for row in result.rows:
        table.add_row(
            row.name,
            f"{count(row.parameters)} {percent(row.parameters, first.parameters)}",
            *([_active(row, first)] if sparse else []),
            bytes_(row.memory_bytes),
            f"{row.loss:.4f} {100 * (row.loss / first.loss - 1):+.2f} %",
            f"{row.perplexity:.2f}",
            f"{row.bits_per_byte:.4f}",
            f"{row.kl:.4f}",
            percent(row.agreement, 1),
            percent(row.next_token_accuracy, 1),
            f"{row.tokens_per_second:,.0f} {row.tokens_per_second / first.tokens_per_second:.2f}x",
        )
    lines = domain_rows(result)
    if not lines:
        return table
    parts = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for column in ("", "tokens", *(row.name for row in result.rows)):
        parts.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for line in lines:
        # A name is a file's, not markup.
        parts.add_row(Text(line.name), line.tokens, line.loss, *line.others)
    return Group(table, Text(domains_title(result), style="italic"), parts)


def _active(row: EvalRow, first: EvalRow) -> str:
    """The parameters that one token is computed with: all, where the row names none."""
    mine, of = (r.parameters if r.active is None else r.active for r in (row, first))
    return f"{count(mine)} {percent(mine, of)}"


def tasks_table(result: TasksResult) -> RenderableType:
    """lm-eval's metrics with their standard errors, one column a checkpoint."""
    names, lines = by_task(result)
    title = f"lm-eval, on {result.device}" + (
        f", {result.limit} examples of each" if result.limit else ""
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("task", "metric", "examples", *names):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for line in lines:
        table.add_row(line.task, line.metric, line.samples, *line.values)
    return table


def by_task(result: TasksResult) -> tuple[list[str], list[TaskLine]]:
    """The checkpoints' names, and for each task and metric their values as text: "0.4120 ±
    0.0156".
    """
    names = list(dict.fromkeys(row.name for row in result.rows))
    found: dict[tuple[str, str], dict[str, TaskRow]] = {}
    for row in result.rows:
        found.setdefault((row.task, row.metric), {})[row.name] = row
    lines = []
    for (task, metric), rows in found.items():
        first = next(iter(rows.values()))
        better = {True: " (higher is better)", False: " (lower is better)", None: ""}
        lines.append(
            TaskLine(
                task=task,
                metric=metric + better[first.higher_is_better],
                samples=str(first.samples or ""),
                values=[_value(rows[name]) if name in rows else "" for name in names],
            )
        )
    return names, lines


def _value(row: TaskRow) -> str:
    return f"{row.value:.4f}" + ("" if row.stderr is None else f" ± {row.stderr:.4f}")
