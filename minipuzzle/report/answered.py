"""What ``minipuzzle eval`` with the shipped questions measured, as text and as a table."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from minipuzzle.records import Answered, QuestionsResult

MEAN = "mean of the kinds"


@dataclass(frozen=True, kw_only=True)
class KindLine:
    """A kind, or a task of one (``inner``), as text: one of ``values`` for each model."""

    name: str
    count: str
    values: list[str]
    inner: bool = False


def kind_rows(result: QuestionsResult) -> list[KindLine]:
    """A line a kind, those of its tasks below it where it has several, and the mean."""
    first, found = result.rows[0], list[KindLine]()
    for kind in first.kinds:
        found.append(_line(kind, [row.kinds[kind] for row in result.rows]))
        tasks = first.tasks.get(kind, {})
        if len(tasks) > 1:
            found += [
                _line(task, [row.tasks[kind][task] for row in result.rows], inner=True)
                for task in tasks
            ]
    return [*found, _line(MEAN, [row.mean for row in result.rows])]


def questions_title(result: QuestionsResult) -> str:
    """Over ``kind_rows``."""
    return (
        f"Right answers above chance, texts of {result.longest:,} tokens at most,"
        f" on {result.device}"
    )


def questions_table(result: QuestionsResult) -> RenderableType:
    """For the terminal."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for column in ("", "questions", *(row.name for row in result.rows)):
        table.add_column(column, justify="right" if column else "left")
    for line in kind_rows(result):
        table.add_row(Text(f"  {line.name}" if line.inner else line.name), line.count, *line.values)
    notes = "0 is a guess, 100 all right; in brackets the 95 % interval"
    if len(result.rows) > 1:
        notes += f", then the change from the {result.rows[0].name}, question by question"
    return Group(Text(questions_title(result), style="italic"), table, Text(notes))


def _line(name: str, each: list[Answered], inner: bool = False) -> KindLine:
    values = [_value(found) for found in each]
    return KindLine(name=name, count=f"{each[0].count:,}", values=values, inner=inner)


def _value(found: Answered) -> str:
    value, low, high = (100 * part for part in found.above)
    text = f"{value:.1f} ({low:.1f} to {high:.1f})"
    if found.change is None:
        return text
    change, low, high = (100 * part for part in found.change)
    return f"{text} {change:+.1f} ({low:+.1f} to {high:+.1f})"
