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


def strip_html(parent: str, student: str, shares: list[float], titles: list[str]) -> str:
    """The parent's blocks above, the student's below, as boxes that wrap to the page's width.

    ``student`` is the parent's pattern with "." for dropped blocks, which become outlines; ``shares`` is each block's kept
    share (0 to 1), the lower box's height; ``titles`` are shown on hovering.
    """
    return "".join(
        f'<span class="b k{KEYS[letter]}" title="{escape(title)}"><i></i>'
        + ('<i class="gone"></i>' if student[i] == "." else f'<i class="kept"><u style="height:{100 * share:.0f}%"></u></i>')
        + f"<small>{i}</small></span>"
        for i, (letter, share, title) in enumerate(zip(parent, shares, titles, strict=True))
    )
