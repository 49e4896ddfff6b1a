"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from minipuzzle.kinds import KINDS
from minipuzzle.records import Fitting, SearchResult, SearchSpace
from minipuzzle.report.pattern import pattern_text
from minipuzzle.report.removed import channel_scores
from minipuzzle.scores import Scores
from minipuzzle.settings.bits import AXIS
from minipuzzle.units import both, bytes_, percent

SHOWN = 10
TOGETHER = 7


def scores_table(pattern: str, scores: Scores) -> RenderableType:
    """Each block's score, its rank among all, and how unevenly its channels matter."""
    table = Table(
        title=f"importance ({scores.meta['metric']} at the model's end when the block is removed)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in (
        "block",
        "kind",
        "score",
        "rank",
        "share of squared score in the best half of channels or heads",
    ):
        table.add_column(column, justify="left" if column == "kind" else "right")
    order = np.argsort(-scores.blocks, kind="stable")
    rank = {int(block): place for place, block in enumerate(order, start=1)}
    for i, letter in enumerate(pattern):
        found, half = channel_scores(scores, i), ""
        if found is not None:
            squares = np.sort(np.square(found[1]))[::-1]
            half = percent(squares[: len(squares) // 2].sum(), squares.sum())
        table.add_row(str(i), pattern_text(letter), f"{scores.blocks[i]:.4g}", str(rank[i]), half)
    return table


def candidates_table(search: SearchResult) -> RenderableType:
    """The best candidates of a search, and the layer patterns of those that go on under their
    parent's.
    """
    rows = search.candidates
    shape = shape_columns(search, [row.shape for row in rows])
    sparse = search.parent.active is not None
    names = {"rank": [str(row.rank) for row in rows], "name": [row.name for row in rows]}
    sizes = {label: [str(row.shape[field]) for row in rows] for label, field in shape.items()}
    counts = [both(row.parameters, row.active) for row in rows]
    for place, label in enumerate(("params", "active") if sparse else ("params",)):
        sizes[label] = [count[place] for count in counts]
    sizes["memory"] = [bytes_(row.bytes) for row in rows]
    measured = {
        "damage": [f"{row.damage:.3g}" for row in rows],
        "next token": [percent(row.next_token_accuracy, 1) for row in rows],
        "agreement": [percent(row.agreement, 1) for row in rows],
        "loss": [f"{row.loss:.4f}" for row in rows],
        "KL": [f"{row.kl:.4f}" for row in rows],
    }
    # 132 characters hold the numbers of seven axes and what is measured side by side.
    apart = len(shape) > TOGETHER
    parts = [names | sizes, names | measured] if apart else [names | sizes | measured]
    bold = [row.name in search.top for row in rows]
    tables = [_columns(part, bold, "" if i else _funnel(search)) for i, part in enumerate(parts)]
    parent = search.parent
    size = ", ".join(both(parent.parameters, parent.active, " active"))
    patterns = Text.assemble("parent  ", pattern_text(parent.pattern), f"  {size}\n")
    for row in [row for row in rows if row.name in search.top]:
        hidden = f", hidden size {row.shape['hidden']}" if "hidden" in shape.values() else ""
        size = ", ".join(both(row.parameters, row.active, " active"))
        patterns.append_text(
            Text.assemble(f"{row.name:<7} ", pattern_text(row.strip), f"  {size}{hidden}\n")
        )
    return Group(*tables, patterns)


def _columns(columns: Mapping[str, Sequence[str]], bold: Sequence[bool], title: str) -> Table:
    """A table of the first rows of ``columns``, close together, with headings in lines."""
    table = Table(
        title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1)
    )
    for column in columns:
        table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
    for *row, strong in list(zip(*columns.values(), bold, strict=True))[:SHOWN]:
        table.add_row(*map(str, row), style="bold" if strong else "")
    return table


def plan_view(space: SearchSpace, maximal: list[Fitting]) -> RenderableType:
    """What fits a budget, from a config.json alone."""
    title = (
        f"{space.feasible:,} of {space.points:,} architectures fit"
        f" {' and '.join(space.budget.text)}; {len(maximal)} are maximal"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    shape = shape_columns(space)
    sparse = space.parent_cost.active is not None
    sizes = ("parameters", "active", "memory") if sparse else ("parameters", "memory")
    for column in (*shape, *sizes):
        table.add_column(column, justify="right")
    for row in maximal[:SHOWN]:
        table.add_row(
            *(str(row.shape[field]) for field in shape.values()),
            *both(row.parameters, row.active),
            bytes_(row.bytes),
        )
    ranges = ", ".join(_range(label, space.sizes(field)) for label, field in shape.items())
    said = "".join(f"\nnot pruned: {sentence}" for sentence in space.not_pruned)
    return Group(
        table, Text(f"space: {ranges}; scores and weights are needed to go on{said}", style="dim")
    )


def shape_columns(
    space: SearchSpace, shapes: Sequence[Mapping[str, int | str]] = ()
) -> dict[str, str]:
    """Headings for the fields of a shape: how many blocks of each kind, and the sizes that a search
    of this ``space`` could choose, or that differ among ``shapes``.
    """
    counts = {block.label: kind for kind, block in KINDS.items() if kind in space.bounds}
    widths = [width for block in KINDS.values() for width in block.widths]
    sizes = {width.label: width.axis for width in widths} | {"hidden size": "hidden"}
    sizes |= {f"{AXIS} x 10": AXIS}
    chosen = {
        label: axis
        for label, axis in sizes.items()
        if len(space.sizes(axis)) > 1 or len({shape.get(axis) for shape in shapes}) > 1
    }
    return counts | chosen


def _range(label: str, values: Sequence[int]) -> str:
    """Like "FFN 45..54", or one number where both ends are one."""
    low, high = min(values), max(values)
    return f"{label} {low}" if low == high else f"{label} {low}..{high}"


def _funnel(search: SearchResult) -> str:
    steps = [
        f"{search.points:,} points",
        f"{search.feasible:,} fit {' and '.join(search.budget.text)}",
    ]
    steps += [f"{len(search.candidates)} evaluated", f"{len(search.top)} kept"]
    return " -> ".join(steps)
