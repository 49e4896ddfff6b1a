"""Stage prune: run/candidates/<name>/, one checkpoint for each of the top candidates."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.identity import fingerprint
from minipuzzle.records import PartialPrune, Pruned, SearchResult
from minipuzzle.runs.job import Job
from minipuzzle.runs.prune_memory import check_prune_memory
from minipuzzle.surgery import cut, verify_logits
from minipuzzle.units import sized

log = logging.getLogger(__name__)

PROBE = (2, 64)
"""Rows and tokens of random text that parent and file are compared on."""
PARTIAL = "prune.partial.json"


def run_prune(job: Job) -> dict[str, Checkpoint]:
    """Cut the top candidates; each file is checked against its plan and against the masked parent's
    logits.

    Those that a killed command had cut and checked are kept.
    """
    with job.run.locked():
        search = SearchResult.load(job.run / "search.json")
        # what is cut, and not how long the search took: the same search again gives the same key
        kept = {name: selection.identity() for name, selection in search.selections.items()}
        key = fingerprint(job.run.key("search"), search.top, kept)
        paths = {name: job.run / "candidates" / name for name in search.top}
        partial = job.run / PARTIAL
        if job.run.is_done("prune", key) and all(
            (p / "config.json").exists() for p in paths.values()
        ):
            log.info("prune: nothing changed, kept " + ", ".join(str(p) for p in paths.values()))
            _forget(job, partial)
            return {name: Checkpoint.open(path) for name, path in paths.items()}
        stored = PartialPrune.load(partial) if partial.exists() else None
        errors = dict(stored.errors) if stored is not None and stored.key == key else {}
        cuts = {}
        left = [name for name in paths if not _is_cut(errors, name, paths[name])]
        if left:
            chosen = [search.selections[name] for name in left]
            check_prune_memory(job.parent, chosen, PROBE, job.device)
        job.run.unmark("prune")
        for name, path in paths.items():
            if name not in left:
                log.info(f"prune: kept {path}")
                cuts[name] = Checkpoint.open(path)
                continue
            cuts[name], errors[name] = _cut(job, search, name, path)
            if job.run.writes:
                PartialPrune(key=key, errors=errors).save(partial)
        job.run.mark(Pruned(key=key, logit_error=errors))
        _forget(job, partial)
    return cuts


def _is_cut(errors: dict[str, float], name: str, path: Path) -> bool:
    """Whether a killed command has cut and checked it."""
    return name in errors and (path / "config.json").exists()


def _cut(job: Job, search: SearchResult, name: str, path: Path) -> tuple[Checkpoint, float]:
    selection = search.selections[name]
    made = cut(job.parent, selection, path)
    tokens = np.random.default_rng(0).integers(0, job.parent.architecture.vocab_size, PROBE)
    error = verify_logits(job.parent, made, selection, tokens, job.device)
    size = sized(made.parameters, made.architecture.active_if_fewer)
    log.info(
        f"prune: {path}  {size}, {made.bytes:,} bytes as planned; "
        f"masked parent and file differ by {error:.1e} of the largest logit"
    )
    return made, error


def _forget(job: Job, partial: Path) -> None:
    if job.run.writes:
        partial.unlink(missing_ok=True)
