"""One page about a run: a single file, no network, light and dark. It shows what the run directory holds."""

from __future__ import annotations

import csv
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from minipuzzle import __version__
from minipuzzle.artifacts import Scores, read_json, write_atomic
from minipuzzle.report import plots
from minipuzzle.report.strip import strip_svg
from minipuzzle.report.tables import by_task
from minipuzzle.report.units import bytes_, count, percent

SOURCES = (
    ("2504.03624", "Nemotron-H and MiniPuzzle"), ("2407.14679", "Minitron: channel scores, logit distillation"),
    ("2411.19146", "Puzzle: block scores"), ("2504.11409", "Minitron-SSM: group-aware Mamba pruning"),
    ("2405.21060", "Mamba-2"),
)  # fmt: skip
SHOWN = 20


def build_report(run: Path) -> Path:
    """Write run/report.html from the files of the run that are there, and return its path.

    Raises: UserError where the folder is no run directory.
    """
    from jinja2 import Environment, PackageLoader

    state = read_json(run / "run.json")
    search = _optional(run / "search.json")
    measured = _optional(run / "eval.json")
    facts: dict[str, Any] = {
        "title": f"{Path(state['parent']['path']).name}, compressed", "subtitle": f"Checkpoint {state['parent']['path']}",
        "commands": _optional(run / "commands.json"), "versions": _versions(), "sources": SOURCES,
    }  # fmt: skip
    distilled = state["stages"].get("distill")
    winner = None if search is None else distilled["winner"] if distilled else search["top"][0]
    if search is not None and winner is not None:
        facts |= _search_facts(search, winner)
    if (run / "scores.safetensors").exists():
        facts |= _score_facts(Scores.load(run / "scores.safetensors"), search, winner)
    if measured is not None:
        facts |= _eval_facts(measured)
    tasks = _optional(run / "tasks.json")
    if tasks is not None:
        facts["task_names"], facts["tasks"] = by_task(tasks)
    logs = {p.parent.name: _log(p) for p in sorted((run / "distill").glob("*/log.csv"))}
    if logs:
        facts["curves"] = plots.loss_curves(logs)
    if distilled:
        losses = "; ".join(f"{n} {v:.4f}" for n, v in distilled["short_validation_loss"].items())
        facts["winner"] = f"Winner {winner}. Validation loss after the short runs: {losses or 'one candidate only'}."
    environment = Environment(loader=PackageLoader("minipuzzle", "report"), autoescape=True)
    target = run / "report.html"
    write_atomic(target, environment.get_template("page.html.j2").render(facts).encode())
    return target


def _search_facts(search: dict[str, Any], winner: str) -> dict[str, Any]:
    row = next(c for c in search["candidates"] if c["name"] == winner)
    pattern, strip, shape = search["parent"]["pattern"], row["strip"], row["shape"]
    whole = {"-": max(search["bounds"]["intermediate"]), "M": max(search["bounds"]["heads"])}
    axes = {"-": "intermediate", "M": "heads", "*": "q_heads"}
    shares = []
    for letter, kept in zip(pattern, search["selections"][winner]["blocks"], strict=True):
        size = len(kept[axes[letter]]) if kept and axes[letter] in kept else None
        shares.append(1.0 if size is None or letter not in whole else size / whole[letter])
    dropped = [f"{i} ({c})" for i, c in enumerate(pattern) if strip[i] == "."]
    removed = f"Dropped blocks: {', '.join(dropped) or 'none'}. FFN width {whole['-']} to {shape['intermediate']}, "
    removed += f"Mamba heads {whole['M']} to {shape['heads']}. Budget: {' and '.join(search['budget']['text'])}."
    rows = [
        {**c["shape"], "best": c["name"] == winner, "rank": c["rank"], "name": c["name"],
         "parameters": count(c["parameters"]), "memory": bytes_(c["bytes"]), "damage": f"{c['damage']:.3g}",
         "accuracy": percent(c["next_token_accuracy"], 1), "agreement": percent(c["agreement"], 1),
         "loss": f"{c['loss']:.4f}", "kl": f"{c['kl']:.4f}"}
        for c in search["candidates"][:SHOWN]
    ]  # fmt: skip
    front = {"front": plots.front_picture(search)} if "front" in search else {}
    return {
        **front, "strip": strip_svg(pattern, strip, shares), "removed": removed, "funnel": search["funnel"],
        "scatter": plots.candidates_scatter(search), "candidates": rows,
    }  # fmt: skip


def _score_facts(scores: Scores, search: dict[str, Any] | None, winner: str | None) -> dict[str, Any]:
    pattern = dict.fromkeys(scores.intermediate, "-") | dict.fromkeys(scores.head_channels, "M")
    letters = "".join(pattern.get(i, "*") for i in range(len(scores.blocks)))
    dropped: set[int] = set()
    kept: dict[int, int] = {}
    if search is not None and winner is not None:
        blocks = search["selections"][winner]["blocks"]
        dropped = {i for i, b in enumerate(blocks) if b is None}
        kept = {i: len(next(iter(b.values()))) for i, b in enumerate(blocks) if b}
    meta = scores.meta
    text = f"{meta.get('width_samples', '?')} blocks of {meta.get('block_length', '?')} tokens"
    return {
        "block_scores": plots.block_scores(letters, scores, dropped),
        "profiles": plots.channel_profiles(letters, scores, kept), "score_text": text,
    }  # fmt: skip


def _eval_facts(measured: dict[str, Any]) -> dict[str, Any]:
    rows, first, last = measured["rows"], measured["rows"][0], measured["rows"][-1]
    shown = [
        {"name": r["name"], "parameters": count(r["parameters"]), "memory": bytes_(r["memory_bytes"]),
         "loss": f"{r['loss']:.4f}", "change": _change(r["loss"], first["loss"]), "perplexity": f"{r['perplexity']:.2f}",
         "bits": f"{r['bits_per_byte']:.4f}", "kl": f"{r['kl']:.4f}", "agreement": percent(r["agreement"], 1),
         "accuracy": percent(r["next_token_accuracy"], 1), "speed": f"{r['tokens_per_second']:,.0f}"}
        for r in rows
    ]  # fmt: skip
    numbers = [
        (_change(last["parameters"], first["parameters"]),
         f"parameters: {count(first['parameters'])} to {count(last['parameters'])}"),
        (_change(last["loss"], first["loss"]),
         f"validation loss of the {last['name']}: {first['loss']:.3f} to {last['loss']:.3f}"),
        (f"{last['tokens_per_second'] / first['tokens_per_second']:.2f}x", f"tokens a second on {measured['device']}"),
    ]  # fmt: skip
    text = f"{measured['tokens']:,} tokens of validation text that the search never saw, on {measured['device']}."
    return {"rows": shown, "numbers": numbers, "measured": text}


def _change(after: float, before: float) -> str:
    return f"{100 * (after / before - 1):+.2f} %"


def _optional(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _log(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _versions() -> str:
    names = ("torch", "numpy", "safetensors", "tokenizers")
    others = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"minipuzzle {__version__}, Python {platform.python_version()}, {others}"
