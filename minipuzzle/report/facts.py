"""What a run directory holds, as the facts that the page and the model card show."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from minipuzzle import __version__
from minipuzzle.checked import is_plain_name
from minipuzzle.errors import UserError
from minipuzzle.records import Distilled, RunRecord
from minipuzzle.report.removed import (
    KIND_NAMES,
    Removal,
    channel_scores,
    hidden_change,
    kept_share,
    misfit,
    removals,
)
from minipuzzle.run_files import load_commands, load_eval, load_log, load_search, named_candidate
from minipuzzle.scores import Scores
from minipuzzle.units import bytes_, count, percent

SOURCES = (
    ("2504.03624", "Nemotron-H and MiniPuzzle: block scores, search under a budget, distillation"),
    ("2407.14679", "Minitron: channel scores, logit distillation"),
    ("2411.19146", "Puzzle: block scores, solver"),
    ("2504.11409", "Minitron-SSM: group-aware Mamba pruning"),
    ("2405.21060", "Mamba-2"),
)


@dataclass(frozen=True)
class Facts:
    """A run directory, read lazily; what a later stage has not written yet is None or empty."""

    run: Path

    @cached_property
    def record(self) -> RunRecord:
        """run.json. Raises: UserError where the folder is no run directory."""
        return RunRecord.load(self.run / "run.json")

    @cached_property
    def parent(self) -> Path:
        """The parent checkpoint's folder. Raises: UserError where no command has named one yet."""
        if self.record.parent is None:
            raise UserError(
                "This run directory is about no model yet.",
                got=self.run,
                allowed="a run of minipuzzle score",
                next="Run minipuzzle score first, in the same run directory.",
            )
        return Path(self.record.parent.path)

    @cached_property
    def search(self) -> dict[str, Any] | None:
        """search.json."""
        return load_search(path) if (path := self.run / "search.json").exists() else None

    @cached_property
    def measured(self) -> dict[str, Any] | None:
        """eval.json. None where it measured the student of another distillation."""
        found = load_eval(path) if (path := self.run / "eval.json").exists() else None
        done = self.distilled
        if found and found["distill"] and found["distill"] != (done and done.key):
            return None
        return found

    @cached_property
    def commands(self) -> list[dict[str, Any]]:
        """The commands that were run, with seconds and date."""
        return load_commands(self.run / "commands.json")

    @cached_property
    def scores(self) -> Scores | None:
        """scores.safetensors."""
        path = self.run / "scores.safetensors"
        scores = Scores.load(path) if path.exists() else None
        if scores is not None and self.search is not None and self.winner is not None:
            selection = self.search["selections"][self.winner["name"]]
            if wrong := misfit(self.pattern, scores, selection):
                raise UserError(
                    "The scores and the search are of different models.",
                    got=wrong,
                    allowed="scores.safetensors and search.json of one run",
                    next="Run minipuzzle search again.",
                )
        return scores

    @cached_property
    def distilled(self) -> Distilled | None:
        """What the stage distill recorded: winner, losses, tokens. None where it was of another
        search.
        """
        found, search = self.record.stages.distill, self.record.stages.search
        return found if found and search and found.search == search.key else None

    @cached_property
    def winner(self) -> dict[str, Any] | None:
        """The candidate that was distilled, or is first so far, as search.json has it."""
        if self.search is None:
            return None
        name = self.distilled.winner if self.distilled else self.search["top"][0]
        return named_candidate(self.search, name)

    @cached_property
    def blocks(self) -> list[dict[str, Any] | None]:
        """What the winner keeps of each block; empty before a search."""
        if self.search is None or self.winner is None:
            return []
        found: list[dict[str, Any] | None] = self.search["selections"][self.winner["name"]][
            "blocks"
        ]
        return found

    @cached_property
    def hidden(self) -> tuple[int, int] | None:
        """The hidden sizes of parent and winner; None where it stayed."""
        if self.search is None or self.winner is None:
            return None
        kept = self.search["selections"][self.winner["name"]]["hidden"]
        return None if kept is None else (self.search["bounds"]["hidden"][-1], len(kept))

    @property
    def hidden_change(self) -> str:
        """Both in words; empty where it stayed."""
        return "" if self.hidden is None else hidden_change(*self.hidden)

    @cached_property
    def pattern(self) -> str:
        """The parent's blocks, one letter each."""
        if self.search is not None:
            return str(self.search["parent"]["pattern"])
        scores = self.scores
        if scores is None:
            return ""
        return "".join(
            "-" if "intermediate" in (of := scores.of(i)) else "M" if "head_channels" in of else "*"
            for i in range(len(scores.blocks))
        )

    @cached_property
    def removed(self) -> list[Removal]:
        """What the winner lost, by kind of block and by axis."""
        if self.scores is None or self.search is None or self.winner is None:
            return []
        return removals(self.pattern, self.scores, self.search["selections"][self.winner["name"]])

    @cached_property
    def logs(self) -> dict[str, list[dict[str, float]]]:
        """The rows of each training log by the run's name; the short runs first."""
        paths = sorted((self.run / "distill").glob("*/log.csv"))
        found = {name: load_log(path) for path in paths if is_plain_name(name := path.parent.name)}
        return {name: rows for name, rows in found.items() if rows}


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
    text = f"Budget: {' and '.join(search['budget']['text'])}. "
    text += (
        f"{winner['name']} was chosen of {len(search['candidates'])} realised candidates: predicted"
        " damage "
    )
    text += f"{winner['damage']:.3g}, {winner['loss']:.4f} nats a token before training. "
    drops = "." in winner["strip"]
    other = next((c for c in search["candidates"] if ("." in c["strip"]) != drops), None)
    if other is not None:
        sort = "keeps all blocks" if drops else "drops a block"
        text += (
            f"The best one that {sort} ({other['name']}) had {other['damage']:.3g} and"
            f" {other['loss']:.4f}."
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
                "kind": KIND_NAMES[letter],
                "score": f"{scores.blocks[i]:.4g}",
                "rank": str(rank[i]),
                "stays": "dropped" if kept is None else stays,
                "share": share,
            }
        )
    return rows


def strip_titles(facts: Facts) -> tuple[list[float], list[str]]:
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


def eval_rows(measured: dict[str, Any]) -> list[dict[str, str]]:
    """Teacher, pruned and student as text."""
    first = measured["rows"][0]
    return [
        {
            "name": r["name"],
            "parameters": count(r["parameters"]),
            "memory": bytes_(r["memory_bytes"]),
            "loss": f"{r['loss']:.4f}",
            "change": change(r["loss"], first["loss"]),
            "perplexity": f"{r['perplexity']:.2f}",
            "bits": f"{r['bits_per_byte']:.4f}",
            "kl": f"{r['kl']:.4f}",
            "agreement": percent(r["agreement"], 1),
            "accuracy": percent(r["next_token_accuracy"], 1),
            "speed": f"{r['tokens_per_second']:,.0f}",
        }
        for r in measured["rows"]
    ]


def domain_rows(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a domain of the text, as text: tokens, the first model's loss, that of each other with
    its change.

    Empty where the text is of one domain, and in results of before domains were kept.
    """
    first, *others = measured["rows"]
    return [
        {
            "name": name,
            "tokens": f"{part['tokens']:,}",
            "loss": f"{part['loss']:.4f}",
            "others": [
                f"{r['domains'][name]['loss']:.4f}"
                f" {change(r['domains'][name]['loss'], part['loss'])}"
                for r in others
            ],
        }
        for name, part in first.get("domains", {}).items()
    ]


def domains_title(measured: dict[str, Any]) -> str:
    """Over ``domain_rows``: where the last model's loss grew most, "loss by domain; worst of the
    student: docs +2.10 %".
    """
    first, last = measured["rows"][0], measured["rows"][-1]
    changes = {
        name: part["loss"] / first["domains"][name]["loss"]
        for name, part in last.get("domains", {}).items()
    }
    if len(measured["rows"]) == 1 or not changes:
        return "loss by domain"
    name = max(changes, key=changes.__getitem__)
    return f"loss by domain; worst of the {last['name']}: {name} {change(changes[name], 1.0)}"


def cost_rows(measured: dict[str, Any]) -> list[dict[str, str]]:
    """Predicted against measured costs as text."""

    def shown(value: float, unit: str) -> str:
        return (
            bytes_(value)
            if unit == "bytes"
            else f"{value:,.3f} ms"
            if unit == "ms"
            else f"{value:,.0f}"
        )

    return [
        {
            "what": r["what"],
            "predicted": shown(r["predicted"], r["unit"]),
            "measured": shown(r["measured"], r["unit"]),
            "error": (
                "exact"
                if r["predicted"] == r["measured"]
                else change(r["predicted"], r["measured"])
            ),
        }
        for r in measured["costs"]
    ]


def change(after: float, before: float) -> str:
    """The relative change, "+1.92 %"; "none" from nothing."""
    return "none" if before == 0 else f"{100 * (after / before - 1):+.2f} %"


def versions() -> str:
    """What this page was made with."""
    names = ("torch", "numpy", "safetensors", "tokenizers")
    others = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"minipuzzle {__version__}, Python {platform.python_version()}, {others}"


def _range(values: Any) -> str:
    if not len(values):
        return ""
    low, high = float(values.min()), float(values.max())
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
