"""A model as its layer pattern, one letter a block; in colours, and the parent's above the
student's.
"""

from __future__ import annotations

from html import escape
from itertools import cycle

from rich.text import Text

from minipuzzle.kinds import KINDS

BLUE, GREEN, ORANGE, GREY = "#4c78c8", "#4f9d69", "#d9822b", "#8a8f98"
PALETTE = {
    ORANGE: "bold yellow",
    GREEN: "green",
    BLUE: "bold blue",
    "#8e6bbf": "magenta",
    "#3a9aa8": "cyan",
    "#c25b5b": "red",
}
"""Colours of the kinds, in the order in which kinds are declared, and the terminal's for each."""
DROPPED, UNKNOWN = ".", "?"


def labels() -> dict[str, str]:
    """What people call the kind of each letter."""
    return {UNKNOWN: "other"} | {block.letter: block.label for block in KINDS.values()}


def colors() -> dict[str, str]:
    """The colour of each letter."""
    letters = (block.letter for block in KINDS.values())
    return {UNKNOWN: GREY} | dict(zip(letters, cycle(PALETTE)))


def legend(pattern: str) -> str:
    """What the letters of a pattern mean, in the order in which they come."""
    names = labels()
    return "   ".join(f"{letter} {names[letter]}" for letter in dict.fromkeys(pattern))


def color_key(pattern: str) -> list[dict[str, str]]:
    """The kinds of a pattern for a page: "kind", "label" and "color" of each."""
    names, color, kinds = labels(), colors(), _kinds()
    return [
        {"kind": kinds[letter], "label": names[letter], "color": color[letter]}
        for letter in dict.fromkeys(pattern)
    ]


def pattern_text(pattern: str) -> Text:
    """The pattern in colours; "." is a dropped block."""
    styles = {letter: PALETTE.get(color, "white") for letter, color in colors().items()}
    styles[DROPPED] = "dim red"
    text = Text(no_wrap=False, overflow="fold")
    for letter in pattern:
        text.append(letter, style=styles[letter])
    return text


def pattern_html(
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
    kinds = _kinds()
    width = (
        ""
        if hidden is None
        else f' style="width:{100 * hidden[1] / hidden[0]:.0f}%;align-self:center"'
    )
    boxes = []
    for i, (letter, share, title) in enumerate(zip(parent, shares, titles, strict=True)):
        kept = f'<i class="kept"{width}><u style="height:{100 * share:.0f}%"></u></i>'
        lower = '<i class="gone"></i>' if student[i] == DROPPED else kept
        boxes.append(
            f'<span class="b k{kinds[letter]}"'
            f' title="{escape(title)}"><i></i>{lower}<small>{i}</small></span>'
        )
    return "".join(boxes)


def _kinds() -> dict[str, str]:
    return {UNKNOWN: "other"} | {block.letter: block.kind for block in KINDS.values()}
