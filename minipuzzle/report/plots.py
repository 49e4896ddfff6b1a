"""The report's pictures as SVG text, legible on light and dark pages."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minipuzzle.artifacts import Scores
from minipuzzle.report.strip import COLORS

GREY = "#8a8f98"
STYLE: Any = {
    "axes.edgecolor": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY, "text.color": GREY,
    "axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "svg.fonttype": "none",
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False,
}  # fmt: skip


def block_scores(pattern: str, scores: Scores, dropped: set[int]) -> str:
    """A bar a block, its kind's colour, hatched where the winner drops it; log scale."""

    def draw(axes: Any) -> None:
        bars = axes.bar(range(len(pattern)), scores.blocks, color=[COLORS[c] for c in pattern])
        for i in dropped:
            bars[i].set(hatch="///", alpha=0.45)
        axes.set(xlabel="block", ylabel="MSE before the head\nwithout this block", yscale="log")
        axes.set_xticks(range(len(pattern)), [f"{i}\n{c}" for i, c in enumerate(pattern)] if len(pattern) <= 60 else None)

    return _svg(draw, (9, 3))


def channel_profiles(pattern: str, scores: Scores, kept: dict[int, int]) -> str:
    """Channel scores of each FFN and Mamba block, sorted and divided by the largest; a dot where the winner cuts."""

    def draw(axes: Any) -> None:
        for i, letter in enumerate(pattern):
            if i in scores.intermediate:
                values = scores.intermediate[i]
            elif i in scores.head_channels:
                values = np.sqrt(np.square(scores.head_channels[i]).sum(axis=1))
            else:
                continue
            ordered = np.sort(values)[::-1] / values.max()
            share = np.arange(1, len(ordered) + 1) / len(ordered)
            axes.plot(100 * share, ordered, color=COLORS[letter], alpha=0.6, linewidth=1)
            if i in kept and kept[i] < len(ordered):
                axes.plot(100 * share[kept[i] - 1], ordered[kept[i] - 1], "o", color=COLORS[letter], markersize=4)
        axes.set(xlabel="channels or heads, best first (%)", ylabel="score / largest of the block", ylim=(0, 1.05))

    return _svg(draw, (9, 3))


def candidates_scatter(search: dict[str, Any]) -> str:
    """Each realised candidate: parameters against loss before training, the kept ones named, the front as a line."""

    def draw(axes: Any) -> None:
        rows = search["candidates"]
        x = np.array([r["parameters"] for r in rows]) / 1e6
        y = np.array([r["loss"] for r in rows])
        axes.scatter(x, y, color=COLORS["M"], alpha=0.6)
        points = list(zip(x, y, strict=True))
        front = sorted((a, b) for a, b in points if not any(c <= a and d < b for c, d in points))
        axes.plot([p[0] for p in front], [p[1] for p in front], color=GREY, linewidth=1, linestyle="--")
        for row in rows:
            if row["name"] in search["top"]:
                point = (row["parameters"] / 1e6, row["loss"])
                axes.scatter(*point, color=COLORS["*"], zorder=3)
                axes.annotate(row["name"], point, textcoords="offset points", xytext=(5, -10))
        axes.set(xlabel="parameters (millions)", ylabel="validation loss, untrained\n(nats a token)")

    return _svg(draw, (9, 3.4))


def front_picture(search: dict[str, Any]) -> str:
    """The predicted Pareto front over the first budget, as SVG."""
    return _svg(lambda axes: draw_front(axes, search), (9, 3.4))


def draw_front(axes: Any, search: dict[str, Any]) -> None:
    """Least predicted damage against cost as a line; realised candidates as points, the chosen one marked."""
    name, points = search["front"]["names"][0], search["front"]["points"]
    field, unit, label = {"parameters": ("parameters", 1e6, "parameters (millions)"),
                          "memory": ("bytes", 2**20, "memory (MiB)")}.get(name, ("parameters", 1e6, "parameters (millions)"))
    column = 0 if name in ("parameters", "memory") else None
    if column is not None:
        axes.plot([p["cost"][column] / unit for p in points], [p["damage"] for p in points], color=GREY, marker=".")
    rows = search["candidates"]
    axes.scatter([r[field] / unit for r in rows], [r["damage"] for r in rows], color=COLORS["M"], alpha=0.5, s=14)
    chosen = next(r for r in rows if r["name"] == search["top"][0])
    axes.scatter(chosen[field] / unit, chosen["damage"], color=COLORS["*"], zorder=3)
    axes.annotate(chosen["name"], (chosen[field] / unit, chosen["damage"]), textcoords="offset points", xytext=(6, 4))
    axes.set(xlabel=label, ylabel="predicted damage")


def loss_curves(logs: dict[str, list[dict[str, float]]]) -> str:
    """KL to the teacher over distillation tokens, one line a run; log scale."""

    def draw(axes: Any) -> None:
        for name, rows in logs.items():
            style = {"linewidth": 2} if name == "long" else {"linewidth": 1, "alpha": 0.7}
            axes.plot([r["tokens"] / 1e3 for r in rows], [r["loss"] for r in rows], label=name, **style)
        axes.set(xlabel="tokens (thousands)", ylabel="KL to the teacher\n(nats a token)", yscale="log")
        axes.legend()

    return _svg(draw, (9, 3))


def save_png(draw: Callable[[Any], None], path: Path, size: tuple[float, float] = (8, 4)) -> None:
    """The picture that ``draw(axes)`` makes, as a PNG on white, for docs."""
    figure, axes = _figure(size)
    draw(axes)
    figure.savefig(path, dpi=110, facecolor="white", bbox_inches="tight")


def _svg(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    figure, axes = _figure(size)
    draw(axes)
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
