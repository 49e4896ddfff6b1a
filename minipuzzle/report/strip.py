"""The strip: a model as one letter a block, before above after."""

from __future__ import annotations

from rich.text import Text

STYLES = {"M": "bold blue", "-": "green", "*": "bold yellow", ".": "dim red"}
COLORS = {"M": "#4c78c8", "-": "#4f9d69", "*": "#d9822b"}
LEGEND = "M Mamba-2   - feed-forward   * attention"
CELL, GAP, ROW = 15, 2, 46


def strip_text(pattern: str) -> Text:
    """The pattern in colours; "." is a dropped block."""
    text = Text(no_wrap=False, overflow="fold")
    for letter in pattern:
        text.append(letter, style=STYLES[letter])
    return text


def strip_svg(parent: str, student: str, widths: list[float], per_row: int = 60) -> str:
    """An SVG: the parent's blocks above, the student's below; what was dropped is an outline, what was narrowed is lower.

    ``student`` is the parent's pattern with "." for dropped blocks, ``widths`` each block's kept share (0 to 1).
    """
    rows = range(0, len(parent), per_row)
    parts = []
    for row, start in enumerate(rows):
        for column, i in enumerate(range(start, min(start + per_row, len(parent)))):
            x, y = column * (CELL + GAP), row * (2 * ROW + 12)
            color = COLORS[parent[i]]
            parts.append(_box(x, y, 1.0, color, f"block {i}: {parent[i]}"))
            if student[i] == ".":
                parts.append(f'<rect x="{x + 1}" y="{y + ROW + 1}" width="{CELL - 2}" height="{ROW - 8}" fill="none" '
                             f'stroke="{color}" stroke-dasharray="2 2"><title>block {i} dropped</title></rect>')  # fmt: skip
            else:
                parts.append(_box(x, y + ROW, widths[i], color, f"block {i}: {100 * widths[i]:.0f} % wide"))
    width = min(len(parent), per_row) * (CELL + GAP)
    height = len(rows) * (2 * ROW + 12)
    return (f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'aria-label="blocks before and after">{"".join(parts)}</svg>')  # fmt: skip


def _box(x: float, y: float, share: float, color: str, title: str) -> str:
    height = (ROW - 6) * share
    return (f'<rect x="{x}" y="{y + (ROW - 6) - height:.1f}" width="{CELL}" height="{height:.1f}" rx="2" '
            f'fill="{color}"><title>{title}</title></rect>')  # fmt: skip
