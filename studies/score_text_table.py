"""The tables of studies/score_text.py."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

COUNTS = (128, 64, 32, 16, 8, 4)
BOOTSTRAPS = 4000


def table(folder: Path) -> str:
    """How damages by fewer samples order blocks, beside 128 of the other half of the text, and what
    is lost by what is picked.
    """
    picks = json.loads((folder / "picks.json").read_text())
    every = {n: [p for p in picks if p["samples"] == n] for n in COUNTS}
    by_count = {n: found for n, found in every.items() if found}  # a rehearsal has fewer
    lines = ["| samples | tau of removals | Spearman | tau of narrowings |", "|--:|--:|--:|--:|"]
    for count, found in by_count.items():
        cells = [
            f"{np.mean([of(p[what], q[what])[0] for p, q in beside(found, by_count)]):.3f}"
            for what, of in (("blocks", kendalltau), ("blocks", spearmanr), ("curves", kendalltau))
        ]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    ways = picks[0]["picked"]
    lines += ["", f"| samples | {' | '.join(ways)} |", "|--:" * (1 + len(ways)) + "|"]
    for count, found in by_count.items():
        cells = [lost(losses(found, way), losses(by_count[max(by_count)], way)) for way in ways]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def beside(
    found: list[dict[str, Any]], by_count: dict[int, list[dict[str, Any]]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each draw with each of the most samples of the other half."""
    pairs = product(found, by_count[max(by_count)])
    return [(p, q) for p, q in pairs if (p["draw"] - q["draw"]) % 2]


def losses(found: list[dict[str, Any]], way: str) -> NDArray[np.float64]:
    """[draws, blocks]."""
    return np.array([pick["picked"][way] for pick in found if way in pick["picked"]])


def lost(mine: NDArray[np.float64], most: NDArray[np.float64]) -> str:
    """Mean loss, different picks, and the loss beyond that by the most samples with the interval of
    95 % over draws and blocks.
    """
    generator = np.random.default_rng(0)
    distinct = len(np.unique(mine.round(9), axis=0))
    if mine is most or np.array_equal(mine, most):
        return f"{mine.mean():.4f} ({distinct})"
    gaps = []
    for _ in range(BOOTSTRAPS):
        blocks = generator.integers(mine.shape[1], size=mine.shape[1])
        a, b = (each[generator.integers(len(each), size=len(each))] for each in (mine, most))
        gaps.append(a[:, blocks].mean() - b[:, blocks].mean())
    low, high = np.percentile(gaps, [2.5, 97.5])
    gap = mine.mean() - most.mean()
    return f"{mine.mean():.4f} ({distinct}), {gap:+.4f} ({low:+.4f} to {high:+.4f})"
