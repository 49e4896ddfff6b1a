"""The steps of a run in rows of text: what each asked for, what it cut and what came back."""

from __future__ import annotations

from rich import box
from rich.table import Table

from minipuzzle.report.evaluated import change
from minipuzzle.report.facts import Facts
from minipuzzle.units import both, percent

COLUMNS = {
    "step": "number",
    "budget": "budget",
    "parameters": "parameters",
    "of the original": "share",
    "tokens": "tokens",
    "loss, pruned": "pruned",
    "loss, recovered": "recovered",
    "KL, pruned": "kl_pruned",
    "KL, recovered": "kl_recovered",
}


def step_rows(facts: Facts) -> list[dict[str, str]]:
    """A row a step; losses with their change from the original's. Empty where there was one."""
    first = facts.record.original
    if first is None:
        return []
    return [
        {
            "number": str(row.number),
            "budget": row.budget,
            "parameters": ", ".join(both(row.parameters, row.active, " active")),
            "share": percent(row.parameters, first.parameters),
            "pattern": row.pattern,
            "tokens": f"{row.tokens:,}",
            "pruned": f"{row.loss[1]:.4f} {change(row.loss[1], row.loss[0])}",
            "recovered": f"{row.loss[2]:.4f} {change(row.loss[2], row.loss[0])}",
            "kl_pruned": f"{row.kl[1]:.4f}",
            "kl_recovered": f"{row.kl[2]:.4f}",
            "report": "this page" if row.folder == "." else f"{row.folder}/report.html",
        }
        for row in facts.steps
    ]


def steps_table(facts: Facts) -> Table:
    """The same for the terminal."""
    table = Table(
        title="each step, beside the original",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    for column in COLUMNS:
        table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in step_rows(facts):
        table.add_row(*(row[key] for key in COLUMNS.values()))
    return table
