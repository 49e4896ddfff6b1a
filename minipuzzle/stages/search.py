"""Stage search: run/search.json."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minipuzzle.arch import Architecture, Selection
from minipuzzle.artifacts import Scores, fingerprint, read_json, write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.evaluate import greedy_tokens, measure
from minipuzzle.progress import progress_bar
from minipuzzle.recipe import SearchSettings
from minipuzzle.search.plan import Plan, make_plan
from minipuzzle.search.rank import Realised, realise
from minipuzzle.search.select import Candidate
from minipuzzle.stages.job import Job, say

FILE = "search.json"


def run_search(job: Job, settings: SearchSettings) -> dict[str, Any]:
    """Enumerate what fits, realise and rank the candidates, keep the top ones; the contents of search.json."""
    scores = Scores.load(job.run / "scores.safetensors")
    check_scores(scores, job.parent)
    blocks = job.validation("search")
    blocks = blocks.take(min(settings.validation_blocks, len(blocks)), seed=0)
    key = fingerprint(job.run.key("score"), asdict(settings), blocks.fingerprint, len(blocks))
    if job.run.is_done("search", key) and (job.run / FILE).exists():
        say(f"search: nothing changed, kept {job.run / FILE}")
        return dict(read_json(job.run / FILE))
    started = time.monotonic()
    plan = make_plan(job.parent.architecture, settings)
    candidates = plan.candidates(scores, settings.candidates)
    listed = time.monotonic()
    model = job.parent_model
    greedy = greedy_tokens(model, blocks)
    known_file = job.run / "search.partial.json"
    known = _known(known_file, key)

    def one(selection: Selection) -> tuple[float, float, float]:
        model.set_mask(selection)
        metrics = measure(model, blocks, greedy=greedy)
        model.set_mask(None)
        return metrics.next_token_accuracy, metrics.agreement or 0.0, metrics.loss

    with progress_bar("search: candidates", len(candidates), "candidates") as bar:

        def finished(name: str, result: tuple[float, float, float]) -> None:
            known[name] = result
            write_json(known_file, {"key": key, "results": known})
            bar.advance(1)

        ranked = realise(candidates, one, known, finished)
    seconds = (listed - started, time.monotonic() - listed)
    result = _result(job.parent, plan, ranked, settings, len(candidates), seconds)
    write_json(job.run / FILE, result)
    job.run.mark("search", key, file=FILE)
    known_file.unlink(missing_ok=True)
    return result


def check_scores(scores: Scores, parent: Checkpoint) -> None:
    """Raises: UserError where the scores were measured on another checkpoint."""
    if scores.meta.get("parent") != parent.fingerprint:
        raise UserError(
            "The scores are of another checkpoint.", got=scores.meta.get("parent"), allowed=parent.fingerprint,
            next="Run minipuzzle score on this checkpoint, in its own run directory.",
        )  # fmt: skip


def load_selection(search: dict[str, Any], name: str) -> Selection:
    """The selection of a candidate of search.json."""
    stored = search["selections"][name]
    blocks = [None if b is None else {axis: tuple(kept) for axis, kept in b.items()} for b in stored["blocks"]]
    return Selection(blocks=tuple(blocks), hidden=None if stored["hidden"] is None else tuple(stored["hidden"]))


def _known(path: Path, key: str) -> dict[str, tuple[float, float, float]]:
    if not path.exists():
        return {}
    stored = read_json(path)
    return {n: (r[0], r[1], r[2]) for n, r in stored["results"].items()} if stored["key"] == key else {}


def _result(
    parent: Checkpoint, plan: Plan, ranked: list[Realised], settings: SearchSettings, realised: int,
    seconds: tuple[float, float],
) -> dict[str, Any]:  # fmt: skip
    top = [r.candidate.name for r in ranked[: settings.top]]
    return {
        "schema": 1,
        "parent": {
            "path": str(parent.path), "fingerprint": parent.fingerprint, "parameters": parent.parameters,
            "pattern": parent.architecture.pattern,
        },
        **plan.summary(),
        "funnel": [
            {"stage": "points of the grid", "entered": plan.points, "left": plan.feasible.count, "seconds": seconds[0]},
            {"stage": "fit the budget, least predicted damage", "entered": plan.feasible.count, "left": realised,
             "seconds": seconds[0]},
            {"stage": "realised on validation text", "entered": realised, "left": len(top), "seconds": seconds[1]},
        ],
        "candidates": [_row(parent.architecture, r) for r in ranked],
        "top": top,
        "selections": {r.candidate.name: _plain(r.candidate) for r in ranked[: settings.top]},
    }  # fmt: skip


def _row(parent: Architecture, realised: Realised) -> dict[str, Any]:
    candidate = realised.candidate
    kept = set(candidate.selection.kept_blocks)
    return {
        "name": candidate.name, "shape": asdict(candidate.shape),
        "pattern": candidate.selection.student(parent).pattern,
        "strip": "".join(symbol if i in kept else "." for i, symbol in enumerate(parent.pattern)),
        "parameters": candidate.parameters, "bytes": candidate.bytes, "damage": candidate.damage,
        "next_token_accuracy": realised.next_token_accuracy, "agreement": realised.agreement, "loss": realised.loss,
        "rank": realised.rank,
    }  # fmt: skip


def _plain(candidate: Candidate) -> dict[str, Any]:
    blocks = [None if b is None else {axis: list(kept) for axis, kept in b.items()} for b in candidate.selection.blocks]
    hidden = candidate.selection.hidden
    return {"blocks": blocks, "hidden": None if hidden is None else list(hidden)}
