"""What the search chose, and what it took away, as rows of text."""

from __future__ import annotations

from minipuzzle.report.facts import Facts
from minipuzzle.report.pattern import labels
from minipuzzle.report.removed import Values, channel_scores, kept_share
from minipuzzle.units import percent


def removed_rows(facts: Facts) -> list[dict[str, str]]:
    """The table of what was removed, with the scores of both sides."""
    return [
        {
            "what": r.what,
            "removed": f"{r.count:,} of {r.total:,}" if r.count else "none",
            "where": r.where,
            "gone": _range(r.removed),
            "kept": _range(r.kept),
            "lost": "" if r.lost is None or not r.count else f"{100 * r.lost:.1f} %",
        }
        for r in facts.removed
    ]


def why(facts: Facts) -> str:
    """A sentence on why this candidate: its budget, and the best one of the other sort."""
    search, winner = facts.search, facts.winner
    if search is None or winner is None:
        return ""
    text = f"Budget: {' and '.join(search.budget.text)}. "
    text += (
        f"{winner.name} was chosen of {len(search.candidates)} evaluated candidates:"
        " predicted damage "
    )
    text += f"{winner.damage:.3g}, {winner.loss:.4f} nats a token before training. "
    drops = "." in winner.strip
    other = next((c for c in search.candidates if ("." in c.strip) != drops), None)
    if other is not None:
        sort = "keeps all blocks" if drops else "drops a block"
        text += (
            f"The best one that {sort} ({other.name}) had {other.damage:.3g} and {other.loss:.4f}."
        )
    return text


def block_rows(facts: Facts) -> list[dict[str, str]]:
    """A row a block: kind, score, rank, what stays of its channels and how much of their squared
    score.
    """
    scores, rows = facts.scores, []
    if scores is None:
        return []
    order = sorted(range(len(facts.pattern)), key=lambda i: -scores.blocks[i])
    rank = {block: place for place, block in enumerate(order, start=1)}
    names = labels()
    for i, letter in enumerate(facts.pattern):
        kept = facts.blocks[i] if facts.blocks else {}
        found, stays, share = channel_scores(scores, i), "", ""
        if found is not None and kept is not None:
            axis, values = found
            chosen = kept.get(axis, range(len(values)))
            stays = f"{len(chosen):,} of {len(values):,}"
            share = percent((values[list(chosen)] ** 2).sum(), (values**2).sum() or 1.0)
        rows.append(
            {
                "block": str(i),
                "kind": names[letter],
                "score": f"{scores.blocks[i]:.4g}",
                "rank": str(rank[i]),
                "stays": "dropped" if kept is None else stays,
                "share": share,
            }
        )
    return rows


def block_titles(facts: Facts) -> tuple[list[float], list[str]]:
    """(each block's kept share, the words shown on hovering)."""
    scores = facts.scores
    if scores is None:
        return [0.0 if kept is None else 1.0 for kept in facts.blocks], [
            f"block {i}" for i in range(len(facts.blocks))
        ]
    shares = [kept_share(scores, i, kept) for i, kept in enumerate(facts.blocks)]
    words = [
        f"block {r['block']}, {r['kind']}, score {r['score']}"
        + (f", {r['stays']}" if r["stays"] else "")
        for r in block_rows(facts)
    ]
    return shares, words


def _range(values: Values) -> str:
    if not len(values):
        return ""
    low, high = float(values.min()), float(values.max())
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
