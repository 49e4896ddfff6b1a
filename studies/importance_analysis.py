"""What studies/importance.py predicts, correlates and prints. Numpy and scipy; no torch.

Predicted damage of a modification, for a width estimator with scores s: - "sum":   the sum of s
over the channels or heads cut off (Mamba heads by the L2 norm of their channels' scores), over
blocks; - "share": per block, its removal error (mse) times the share of squared scores cut off,
summed (what ``search`` orders by). A dropped block counts with its block score. "parameters"
predicts the number of parameters removed: no estimator at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from minipuzzle.arch import Architecture, Selection
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2, Width
from minipuzzle.scores import Scores

Array = NDArray[np.float64]
FAMILIES = {"blocks": "", "ffn": "mlp", "mamba": "mamba", "attention": "attention"}
RESAMPLES = 2000


def modifications(parent: Architecture, count: int, seed: int) -> list[tuple[str, Selection]]:
    """``count`` distinct random cuts as (family, selection), equally many of each family that the
    parent has.

    blocks: 1 to 3 blocks out. ffn: some FFN blocks to 10 to 90 % of their width. mamba: some blocks
    to any smaller number of heads, equal by group. attention: some blocks to fewer KV heads, fewer
    query heads of each, or both. What stays is random. A family with fewer distinct cuts gives
    fewer.
    """
    rng = np.random.default_rng(seed)
    families = [f for f, kind in FAMILIES.items() if not kind or parent.count(kind)]
    found: list[tuple[str, Selection]] = []
    for position, family in enumerate(families):
        wanted = count // len(families) + (position < count % len(families))
        seen: dict[str, Selection] = {}
        for _ in range(100 * wanted):
            selection = _draw(parent, family, rng)
            if len(seen) < wanted and selection.student(parent) != parent:
                seen.setdefault(repr(selection), selection)
        found += [(family, selection) for selection in seen.values()]
    return found


def _draw(parent: Architecture, family: str, rng: np.random.Generator) -> Selection:
    blocks: list[dict[str, tuple[int, ...]] | None] = [{} for _ in parent.blocks]
    if family == "blocks":
        out = rng.choice(len(blocks), min(int(rng.integers(1, 4)), len(blocks) - 1), replace=False)
        return Selection(blocks=tuple(None if i in out else {} for i in range(len(blocks))))
    mine = parent.indices(FAMILIES[family])
    for i in rng.choice(mine, int(rng.integers(1, len(mine) + 1)), replace=False):
        block = parent.blocks[i]
        if isinstance(block, FeedForward):
            width = max(1, int(block.intermediate * rng.uniform(0.1, 0.9)))
            blocks[i] = {"intermediate": _some(rng, block.intermediate, width)}
        elif isinstance(block, Mamba2):
            size = block.heads // block.groups
            kept = int(rng.integers(1, size)) if size > 1 else 1
            blocks[i] = {
                "heads": tuple(
                    g * size + h for g in range(block.groups) for h in _some(rng, size, kept)
                )
            }
        else:
            size = block.q_heads // block.kv_heads
            kv = _some(rng, block.kv_heads, int(rng.integers(1, block.kv_heads + 1)))
            kept = int(rng.integers(1, size + 1))
            blocks[i] = {
                "kv_heads": kv,
                "q_heads": tuple(k * size + h for k in kv for h in _some(rng, size, kept)),
            }
    selection = Selection(blocks=tuple(blocks))
    return selection


def _some(rng: np.random.Generator, size: int, count: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.sort(rng.choice(size, count, replace=False)))


def _kept(
    width: Width, block: Block, values: Array, each: int, count: int
) -> dict[str, tuple[int, ...]]:
    """The ``count`` best of each of ``each`` groups."""
    return width.keep(block, values, count * each)


def best_cuts(parent: Architecture, scores: Scores, share: float) -> dict[str, Selection]:
    """Every block of a kind cut to ``share`` of one axis, keeping what ``scores`` ranks first.

    Query heads are cut equally for each KV head; KV heads go with their query heads. An axis whose
    size does not divide is left out.
    """
    cuts: dict[str, dict[int, dict[str, tuple[int, ...]]]] = {}

    def put(
        name: str, index: int, whole: int, choose: Callable[[int], dict[str, tuple[int, ...]]]
    ) -> None:
        if whole * share == int(whole * share):
            cuts.setdefault(name, {})[index] = choose(int(whole * share))

    for i, block in enumerate(parent.blocks):
        if isinstance(block, FeedForward):
            channels = scores.widths["intermediate"][i]
            put(
                "FFN channels",
                i,
                block.intermediate,
                lambda n, c=channels: {"intermediate": _best(c, n)},
            )
        elif isinstance(block, Mamba2):
            channels, g = scores.widths["head_channels"][i], block.groups
            of_heads, of_channels = block.widths
            put("Mamba heads", i, block.heads // g, partial(_kept, of_heads, block, channels, g))
            put(
                "Mamba head channels",
                i,
                block.head_dim,
                partial(_kept, of_channels, block, channels, 1),
            )
        else:
            rows = scores.widths["q_heads"][i].reshape(block.kv_heads, -1)
            put(
                "query heads of each KV head",
                i,
                rows.shape[1],
                lambda n, r=rows: {"q_heads": _each(r, range(len(r)), n)},
            )
            put("KV heads", i, block.kv_heads, lambda n, r=rows: _kv(r, n))
    empty = range(len(parent.blocks))
    result = {
        name: Selection(blocks=tuple(kept.get(i, {}) for i in empty)) for name, kept in cuts.items()
    }
    if scores.hidden is not None:
        hidden = _best(scores.hidden, int(parent.hidden * share))
        result["hidden channels"] = Selection(blocks=tuple({} for _ in empty), hidden=hidden)
    return result


def _kv(rows: Array, count: int) -> dict[str, tuple[int, ...]]:
    kept = _best(np.square(rows).sum(1), count)
    return {"kv_heads": kept, "q_heads": _each(rows, kept, rows.shape[1])}


def _each(rows: Array, groups: Iterable[int], count: int) -> tuple[int, ...]:
    """The ``count`` best query heads of each of the ``groups``; rows [kv_heads, query heads of
    each].
    """
    return tuple(g * rows.shape[1] + h for g in groups for h in _best(rows[g], count))


def _best(values: Array, count: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.sort(np.argsort(-values, kind="stable")[:count]))


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
