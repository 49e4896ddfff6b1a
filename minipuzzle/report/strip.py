"""The strip: a model as one letter a block, before above after."""

from __future__ import annotations

from html import escape

from rich.text import Text

STYLES = {"M": "bold blue", "-": "green", "*": "bold yellow", ".": "dim red"}
COLORS = {"M": "#4c78c8", "-": "#4f9d69", "*": "#d9822b"}
LEGEND = "M Mamba-2   - feed-forward   * attention"
KEYS = {"M": "mamba", "-": "mlp", "*": "attention"}


def strip_text(pattern: str) -> Text:
    """The pattern in colours; "." is a dropped block."""
    text = Text(no_wrap=False, overflow="fold")
    for letter in pattern:
        text.append(letter, style=STYLES[letter])
    return text


def strip_html(
    parent: str,
    student: str,
    shares: list[float],
    titles: list[str],
    hidden: tuple[int, int] | None = None,
) -> str:
    """The parent's blocks above, the student's below, as boxes that wrap to the page's width.

    ``student`` is the parent's pattern with "." for dropped blocks, which become outlines;
    ``shares`` is each block's kept share (0 to 1), the lower box's height; where the ``hidden``
    size changed (before, after) its share is the lower boxes' width; ``titles`` are shown on
    hovering.
    """
    width = (
        ""
        if hidden is None
        else f' style="width:{100 * hidden[1] / hidden[0]:.0f}%;align-self:center"'
    )
    boxes = []
    for i, (letter, share, title) in enumerate(zip(parent, shares, titles, strict=True)):
        kept = f'<i class="kept"{width}><u style="height:{100 * share:.0f}%"></u></i>'
        lower = '<i class="gone"></i>' if student[i] == "." else kept
        boxes.append(
            f'<span class="b k{KEYS[letter]}"'
            f' title="{escape(title)}"><i></i>{lower}<small>{i}</small></span>'
        )
    return "".join(boxes)
