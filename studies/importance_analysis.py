"""What studies/importance.py predicts, correlates and prints. Numpy and scipy; no torch.

Predicted damage of a modification, for a width estimator with scores s: - "sum":   the sum of s
over the channels or heads cut off (Mamba heads by the L2 norm of their channels' scores), over
blocks; - "share": per block, its removal error (mse) times the share of squared scores cut off,
summed (what ``search`` orders by). A dropped block counts with its block score. "parameters"
predicts the number of parameters removed: no estimator at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from importance_cuts import FAMILIES, Array
from scipy.stats import rankdata, spearmanr

from minipuzzle.arch import Architecture, Selection
from minipuzzle.kinds import Attention, Mamba2
from minipuzzle.scores import Scores

RESAMPLES = 2000


def predict(
    parent: Architecture, blocks: Array, widths: Scores, selection: Selection, how: str
) -> float:
    """Predicted damage of a selection, ``how`` "sum" or "share"; dropped blocks count with
    ``blocks``.
    """
    total = 0.0
    for i, kept in enumerate(selection.blocks):
        if kept is None:
            total += float(blocks[i])
        elif kept:
            values, axis = _values(parent, widths, i)
            lost = np.setdiff1d(np.arange(len(values)), kept[axis])
            part = (
                values[lost].sum()
                if how == "sum"
                else blocks[i] * np.square(values[lost]).sum() / np.square(values).sum()
            )
            total += float(part)
    return total


def _values(parent: Architecture, widths: Scores, index: int) -> tuple[Array, str]:
    block = parent.blocks[index]
    if isinstance(block, Mamba2):
        return np.sqrt(np.square(widths.widths["head_channels"][index]).sum(1)), "heads"
    return (
        (widths.widths["q_heads"][index], "q_heads")
        if isinstance(block, Attention)
        else (widths.widths["intermediate"][index], "intermediate")
    )


def correlation(predicted: Array, measured: Array, seed: int = 0) -> dict[str, float | None]:
    """Spearman's rho with its bootstrap 95 % interval over modifications; all None where a side
    never varies.
    """
    if len(measured) < 3 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return {"rho": None, "low": None, "high": None}
    rows = np.random.default_rng(seed).integers(0, len(measured), (RESAMPLES, len(measured)))
    a, b = (rankdata(values[rows], axis=1) for values in (predicted, measured))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    rhos = (a * b).sum(1)[scale > 0] / scale[scale > 0]
    low, high = np.quantile(rhos, (0.025, 0.975))
    return {
        "rho": float(spearmanr(predicted, measured).statistic),
        "low": float(low),
        "high": float(high),
    }


def correlate(
    parent: Architecture,
    widths: Mapping[str, Scores],
    blocks: Mapping[str, Array],
    done: list[dict[str, Any]],
) -> dict[str, dict[str, dict[str, float | None]]]:
    """{"zero-shot / ffn / sum": {"minitron": {rho, low, high}}}, and so on, for measured ``done``
    (see ``importance.py``).
    """
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for when in [key for key in ("before", "after") if all(d[key] is not None for d in done)]:
        for family in (*FAMILIES, "all"):
            some = [d for d in done if family in (d["family"], "all")]
            if not some:
                continue
            harm = np.array([d[when] for d in some])

            def score(
                how: str, by: Array, scores: Scores, some: Any = some, harm: Array = harm
            ) -> dict[str, float | None]:
                predicted = np.array(
                    [predict(parent, by, scores, d["selection"], how) for d in some]
                )
                return correlation(predicted, harm)

            removed = np.array(
                [parent.parameters - d["selection"].student(parent).parameters for d in some],
                dtype=float,
            )
            baseline = {"parameters": correlation(removed, harm)}
            if family in ("blocks", "all"):
                rows = {name: score("share", by, widths["minitron"]) for name, by in blocks.items()}
                found[f"{when} / {family} / block score"] = rows | baseline
            for how in {"blocks": (), "all": ("share",)}.get(family, ("share", "sum")):
                rows = {name: score(how, blocks["mse"], scores) for name, scores in widths.items()}
                found[f"{when} / {family} / {how}"] = rows | baseline
    return found


def tables(facts: dict[str, Any]) -> str:
    """The results as Markdown."""
    found, lines = facts["correlations"], []
    names = {"before": "no training", "after": f"{facts['tokens']:,} tokens of distillation"}
    for when in names:
        groups = [
            [
                f"{when} / {f} / {how}"
                for f in ("ffn", "mamba", "attention")
                for how in ("sum", "share")
            ]
        ]
        groups[0].append(f"{when} / all / share")
        groups.append([f"{when} / {f} / block score" for f in ("blocks", "all")])
        for keys in [[key for key in group if key in found] for group in groups]:
            if not keys:
                continue
            lines += [
                "",
                (
                    f"**Spearman of predicted damage and loss increase, {names[when]}** [95 %"
                    " bootstrap interval]"
                ),
                "",
            ]
            lines += _head([key.split(" / ", 1)[1].replace(" / ", ": ") for key in keys])
            for row in dict.fromkeys(name for key in keys for name in found[key]):
                lines.append(_row(row, [_rho(found[key].get(row)) for key in keys]))
    for when, share in [(when, share) for when in names for share in facts["shares"]]:
        measured = [c for c in facts["cuts"] if c["share"] == share and c[when] is not None]
        if measured:
            lines += [
                "",
                (
                    f"**Loss increase (nats/token), each estimator's best {100 * share:.0f} % of an"
                    f" axis kept in all blocks, {names[when]}**; parent {facts['parent_loss']:.4f}"
                ),
                "",
            ]
            axes = list(dict.fromkeys(c["axis"] for c in measured))
            lines += _head(axes)
            for row in dict.fromkeys(c["estimator"] for c in measured):
                values = [
                    [c[when] for c in measured if (c["estimator"], c["axis"]) == (row, axis)]
                    for axis in axes
                ]
                lines.append(_row(row, [_mean(v) for v in values]))
    return "\n".join(lines).strip() + "\n"


def _head(columns: list[str]) -> list[str]:
    return [_row("", columns), "|---" * (len(columns) + 1) + "|"]


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _rho(value: dict[str, float | None] | None) -> str:
    if value is None or value["rho"] is None:
        return ""
    return f"{value['rho']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def _mean(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ({min(values):+.3f}..{max(values):+.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):+.4f}{spread}"
