"""matplotlib drawings as SVG text that fits into a page: its text colour and font, ids of its own,
nothing loaded.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

GREY = "#8a8f98"
STYLE: Any = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "text.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is a $
}
WIDTH = 6.2
"""Inches: two pictures side by side on a desk, one on a phone, where ten points are still
readable.
"""


def svg(draw: Callable[[Any], None], name: str, height: float = 3.2) -> str:
    """The picture that ``draw(axes)`` makes. ``name`` keeps its ids apart from other pictures of
    the page.
    """
    figure, axes = _figure((WIDTH, height), name)
    draw(axes)
    text = io.StringIO()
    with warnings.catch_warnings():  # a letter that our font lacks is the reader's font's to show
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    whole = text.getvalue()
    return _for_page(whole[whole.index("<svg") :], name)


def save_png(draw: Callable[[Any], None], path: Path, size: tuple[float, float] = (8, 4)) -> None:
    """The picture that ``draw(axes)`` makes, as a PNG on white, for docs."""
    figure, axes = _figure(size, "png")
    draw(axes)
    figure.savefig(path, dpi=110, facecolor="white", bbox_inches="tight")


def plain_log(axes: Any) -> None:
    """A few plain numbers on a logarithmic y axis, however little it spans."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _for_page(text: str, name: str) -> str:
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(
        "'DejaVu Sans', 'Bitstream Vera Sans', 'Computer Modern Sans Serif'", "system-ui"
    )
    text = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", text)
    text = text.replace(GREY, "currentColor")
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(
        r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text
    )
    return re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)


def _figure(size: tuple[float, float], name: str) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({**STYLE, "svg.hashsalt": name})
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
