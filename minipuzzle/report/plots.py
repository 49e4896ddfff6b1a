"""The report's pictures of scores, candidates and training, as SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipuzzle.kinds import Kept
from minipuzzle.records import SearchResult
from minipuzzle.report.forecast import Forecast
from minipuzzle.report.pattern import BLUE, ORANGE, colors
from minipuzzle.report.removed import channel_scores, kept_share
from minipuzzle.report.svg import GREY, plain_log, svg
from minipuzzle.scores import Scores

COLUMNS = 64
MANY_BLOCKS = 40
FEW_ROWS = 5


def block_scores(pattern: str, scores: Scores, blocks: Sequence[Kept | None]) -> str:
    """A bar a block in its kind's colour, hatched and pale where it was dropped; log scale."""
    color = colors()

    def draw(axes: Any) -> None:
        bars = axes.bar(range(len(pattern)), scores.blocks, color=[color[c] for c in pattern])
        for i, kept in enumerate(blocks):
            if kept is None:
                bars[i].set(hatch="///", alpha=0.45)
        axes.set(xlabel="block", ylabel="damage without it", yscale="log")
        plain_log(axes)
        if len(pattern) <= MANY_BLOCKS:
            axes.set_xticks(range(len(pattern)), [f"{i}\n{c}" for i, c in enumerate(pattern)])

    return svg(draw, "blocks")


def heat_map(pattern: str, scores: Scores, blocks: Sequence[Kept | None]) -> str:
    """A row a block: left its own score, right its channels or heads, best first, each relative to
    the best.

    White ticks mark where a block was cut; rows of dropped blocks are dimmed. ``blocks`` may be
    empty: nothing cut yet.
    """
    rows = np.full((len(pattern), COLUMNS), np.nan)
    for i in range(len(pattern)):
        found = channel_scores(scores, i)
        if found is not None:
            ordered = np.sort(found[1])[::-1] / (found[1].max() or 1.0)
            rows[i] = ordered[np.arange(COLUMNS) * len(ordered) // COLUMNS]
    damage = np.log10(np.maximum(scores.blocks, scores.blocks[scores.blocks > 0].min(initial=1.0)))
    spread = float(np.ptp(damage)) or 1.0

    def draw(axes: Any) -> None:
        lows = ((damage - damage.min()) / spread)[:, None]
        axes.imshow(
            lows,
            aspect="auto",
            extent=(-14, -4, len(pattern) - 0.5, -0.5),
            cmap="viridis",
            interpolation="nearest",
        )
        picture = axes.imshow(
            rows,
            aspect="auto",
            extent=(0, 100, len(pattern) - 0.5, -0.5),
            cmap="viridis",
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        for i, kept in enumerate(blocks):
            share = 100 * kept_share(scores, i, kept)
            if kept is None:
                axes.axhspan(i - 0.5, i + 0.5, color=GREY, alpha=0.75)
            elif share < 100:
                axes.plot([share, share], [i - 0.5, i + 0.5], color="white", linewidth=2)
        axes.set(
            xlim=(-15, 100),
            ylim=(len(pattern) - 0.5, -0.5),
            xlabel="channels or heads of the block, best first (%)",
        )
        step = 1 if len(pattern) <= MANY_BLOCKS else 5
        axes.set_yticks(
            range(0, len(pattern), step),
            [f"{i} {pattern[i]}" for i in range(0, len(pattern), step)],
        )
        axes.set_xticks([-9, 0, 25, 50, 75, 100], ["itself", "0", "25", "50", "75", "100"])
        axes.figure.colorbar(picture, ax=axes, label="score / best", fraction=0.04, pad=0.02)

    return svg(draw, "heat", height=min(9.0, max(3.0, 0.19 * len(pattern) + 0.9)))


def pareto(search: SearchResult, winner: str) -> str:
    """Each evaluated candidate: cost against measured KL before training; the front as steps, the
    chosen one named.
    """
    field, unit, label = cost_axis(search)

    def draw(axes: Any) -> None:
        rows = search.candidates
        points = [(getattr(r, field) / unit, r.kl) for r in rows]
        front = sorted(
            p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)
        )
        axes.step(
            [p[0] for p in front],
            [p[1] for p in front],
            where="post",
            color=GREY,
            linewidth=1,
            linestyle="--",
        )
        axes.scatter(*zip(*points, strict=True), color=BLUE, alpha=0.55, s=18)
        for row, point in zip(rows, points, strict=True):
            if row.name in search.top:
                chosen = row.name == winner
                axes.scatter(*point, color=ORANGE, s=60 if chosen else 24, zorder=3)
                text = f"{row.name}, chosen" if chosen else row.name
                axes.annotate(
                    text,
                    point,
                    textcoords="offset points",
                    xytext=(7, 5),
                    weight="bold" if chosen else None,
                )
        axes.margins(x=0.14, y=0.12)
        axes.set(xlabel=label, ylabel="KL to the parent, untrained")

    return svg(draw, "pareto")


def front_picture(search: SearchResult, winner: str) -> str:
    """The solver's predicted Pareto front over the first budget."""
    return svg(lambda axes: draw_front(axes, search, winner), "front")


def draw_front(axes: Any, search: SearchResult, winner: str | None = None) -> None:
    """Least predicted damage against cost as a line; evaluated candidates as points, the chosen one
    (or best) marked.
    """
    field, unit, label = cost_axis(search)
    column = {"parameters": "parameters", "bytes": "memory"}[field]
    if search.front is not None and column in search.front.names:
        at, points = search.front.names.index(column), search.front.points
        axes.plot(
            [p.cost[at] / unit for p in points], [p.damage for p in points], color=GREY, marker="."
        )
    rows = search.candidates
    costs, damage = [getattr(r, field) / unit for r in rows], [r.damage for r in rows]
    axes.scatter(costs, damage, color=BLUE, alpha=0.5, s=14)
    chosen = next(r for r in rows if r.name == (winner or search.top[0]))
    axes.scatter(getattr(chosen, field) / unit, chosen.damage, color=ORANGE, zorder=3)
    axes.annotate(
        chosen.name,
        (getattr(chosen, field) / unit, chosen.damage),
        textcoords="offset points",
        xytext=(6, 4),
    )
    axes.set(xlabel=label, ylabel="predicted damage")


def cost_axis(search: SearchResult) -> tuple[str, float, str]:
    """(field of a candidate, its unit, label): memory where only memory is bounded, parameters
    otherwise.
    """
    budget = search.budget
    if budget.bytes is not None and budget.parameters is None:
        unit, name = (2**30, "GiB") if budget.bytes >= 2**30 else (2**20, "MiB")
        return "bytes", unit, f"memory ({name})"
    size, name = (1e9, "billions") if search.parent.parameters >= 1e9 else (1e6, "millions")
    return "parameters", size, f"parameters ({name})"


def forecast_picture(points: Sequence[tuple[int, float]], found: Forecast) -> str:
    """The validation loss over tokens, and what more tokens would bring, with intervals."""

    def draw(axes: Any) -> None:
        tokens, losses = zip(*points, strict=True)
        axes.plot([n / 1e3 for n in tokens], losses, marker=".", color=BLUE, label="measured")
        for factor, (loss, low, high) in found.losses.items():
            bars = [[loss - low], [high - loss]]
            style: dict[str, Any] = {"fmt": "o", "capsize": 4, "color": ORANGE}
            label = "forecast, 95 %" if factor == min(found.losses) else None
            axes.errorbar([factor * tokens[-1] / 1e3], [loss], yerr=bars, label=label, **style)
        axes.set(xlabel="tokens (thousands)", ylabel="validation loss (nats a token)", xscale="log")
        axes.legend()

    return svg(draw, "forecast")


def loss_curves(logs: dict[str, list[dict[str, float]]]) -> str:
    """The training loss over tokens, one line a run; log scale."""

    def draw(axes: Any) -> None:
        for name, rows in logs.items():
            style: dict[str, Any] = (
                {"linewidth": 2} if name == "long" else {"linewidth": 1.2, "alpha": 0.8}
            )
            style |= {"marker": "."} if len(rows) < FEW_ROWS else {}
            axes.plot(
                [r["tokens"] / 1e3 for r in rows], [r["loss"] for r in rows], label=name, **style
            )
        axes.set(
            xlabel="tokens (thousands)", ylabel="KL to the teacher (nats a token)", yscale="log"
        )
        plain_log(axes)
        axes.legend()

    return svg(draw, "curves")
