"""The cuts whose loss studies/importance.py measures: drawn at random, and the best of a width."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture, Selection
from minipuzzle.kinds import Block, FeedForward, Mamba2, Width
from minipuzzle.scores import Scores

Array = NDArray[np.float64]


FAMILIES = {"blocks": "", "ffn": "mlp", "mamba": "mamba", "attention": "attention"}


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
            of_heads, of_channels = (w for w in block.widths if w.score == "head_channels")
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
