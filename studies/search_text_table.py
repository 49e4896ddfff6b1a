"""The tables of studies/search_text.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

CANDIDATES, BLOCKS = 24, 64
ROUNDS = {  # (candidates, blocks each) of each rung; every rung goes on from the text before
    "all on 32": ((24, 32),),
    "all on 16": ((24, 16),),
    "all on 8": ((24, 8),),
    "all on 4": ((24, 4),),
    "24 on 8, 12 on 16, 6 on 32": ((24, 8), (12, 16), (6, 32)),
    "24 on 4, 12 on 8, 6 on 16, 3 on 32": ((24, 4), (12, 8), (6, 16), (3, 32)),
    "24 on 2, 8 on 4, 3 on 16": ((24, 2), (8, 4), (3, 16)),
}
DRAWS = 150


def ranks(rows: NDArray[np.float64], ranking: str) -> NDArray[np.float64]:
    """[candidates]: lower is better, by ``rows`` [candidates, 4] of means: by KL, or by accuracy's
    and agreement's ranks as ``nas.rank`` does, the loss among equals.
    """
    from scipy.stats import rankdata

    if ranking == "kl":
        return np.asarray(rankdata(rows[:, 3]))
    summed = rankdata(-rows[:, 1]) + rankdata(-rows[:, 2])
    return np.asarray(rankdata(summed + 1e-6 * rankdata(rows[:, 0])))


def climbed(
    rows: NDArray[np.float64], rounds: tuple[tuple[int, int], ...], ranking: str
) -> list[int]:
    """The candidates in the order of rounds over ``rows`` [candidates, blocks, 4]: each rung
    orders those that are left by all of the text so far.
    """
    left = list(range(len(rows)))
    tail: list[int] = []
    for count, blocks in rounds:
        tail = [*left[count:], *tail]
        left = left[:count]
        order = np.argsort(ranks(rows[left, :blocks].mean(1), ranking), kind="stable")
        left = [left[i] for i in order]
    return [*left, *tail]


def table(found: dict[str, Any]) -> str:
    """Agreement of precisions; what each of ROUNDS costs and loses."""
    lines = ["| FP32 and BF16 | Kendall's tau | same best | largest relative difference |"]
    lines.append("|---|--:|--:|--:|")
    a, b = (np.array(found["damages"][p]) for p in ("fp32", "bf16"))
    count = len(a)
    lines.append(
        f"| {count} damages of scoring | {kendalltau(a, b)[0]:.3f} | "
        f"{'yes' if a.argmin() == b.argmin() else 'no'} | {np.abs(b / a - 1).max():.3f} |"
    )
    for budget, each in found["budgets"].items():
        full, half = (np.array(each["rows"][p]) for p in ("fp32", "bf16"))
        full = full[:, : half.shape[1]].mean(1)
        half = half.mean(1)
        for ranking in ("kl", "agreement"):
            x, y = ranks(full, ranking), ranks(half, ranking)
            gap = np.abs(half[:, 3] / full[:, 3] - 1).max() if ranking == "kl" else np.nan
            lines.append(
                f"| {budget}: {len(x)} candidates by {ranking} | {kendalltau(x, y)[0]:.3f} | "
                f"{'yes' if x.argmin() == y.argmin() else 'no'} | {gap:.4f} |"
            )
    lines += ["", "| rounds | cost | tau, by KL | tau, by agreement | regret at each budget | |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for name, rounds in ROUNDS.items():
        lines.append(f"| {name} | {cost(rounds):.0%} | {' | '.join(played(found, rounds))} |")
    return "\n".join(lines)


def cost(rounds: tuple[tuple[int, int], ...]) -> float:
    """Candidates x blocks, of all candidates on the most blocks."""
    done, total = 0, 0
    for count, blocks in rounds:
        total += count * (blocks - done)
        done = blocks
    return total / (CANDIDATES * BLOCKS // 2)


def played(found: dict[str, Any], rounds: tuple[tuple[int, int], ...]) -> list[str]:
    """Over DRAWS halves of the text: the mean rank correlation with the other half, by KL and by
    agreement, then of each budget the KL there of the winner by KL beyond that of the winner of all
    candidates on all blocks, with the 5th and 95th percentile.
    """
    generator = np.random.default_rng(0)
    taus: dict[str, list[float]] = {"kl": [], "agreement": []}
    cells = []
    for each in found["budgets"].values():
        rows, regrets = np.array(each["rows"]["fp32"]), []  # [candidates, blocks, 4]
        half = rows.shape[1] // 2
        if len(rows) < rounds[0][0] or half < rounds[-1][1]:
            return [""] * 4  # a rehearsal
        for _ in range(DRAWS):
            order = generator.permutation(rows.shape[1])
            choose, truth = rows[:, order[:half]], rows[:, order[half:]].mean(1)
            chosen = {ranking: climbed(choose, rounds, ranking) for ranking in taus}
            for ranking, order_of in chosen.items():
                places = np.argsort(order_of)
                taus[ranking].append(kendalltau(places, ranks(truth, ranking))[0])
            whole = climbed(choose, ((len(rows), half),), "kl")
            regrets.append(truth[chosen["kl"][0], 3] - truth[whole[0], 3])
        low, high = np.percentile(regrets, [5, 95])
        cells.append(f"{np.mean(regrets):.4f} ({low:.3f} to {high:.3f})")
    return [*(f"{np.mean(each):.3f}" for each in taus.values()), *cells]
