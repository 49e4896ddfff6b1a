"""Stage prune: run/candidates/<name>/, one checkpoint for each of the top candidates."""

from __future__ import annotations

import numpy as np

from minipuzzle.artifacts import fingerprint
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.run_files import load_search
from minipuzzle.stages.job import Job, say
from minipuzzle.stages.search import load_selection
from minipuzzle.surgery import cut, verify_logits

PROBE_TOKENS = 64


def run_prune(job: Job) -> dict[str, Checkpoint]:
    """Cut the top candidates; each file is checked against its plan and against the masked parent's logits."""
    search = load_search(job.run / "search.json")
    key = fingerprint(job.run.key("search"), search)
    paths = {name: job.run / "candidates" / name for name in search["top"]}
    if job.run.is_done("prune", key) and all((p / "config.json").exists() for p in paths.values()):
        say("prune: nothing changed, kept " + ", ".join(str(p) for p in paths.values()))
        return {name: Checkpoint.open(path) for name, path in paths.items()}
    vocabulary = job.parent.architecture.vocab_size
    tokens = np.random.default_rng(0).integers(0, vocabulary, (2, PROBE_TOKENS))
    cuts, errors = {}, {}
    for name, path in paths.items():
        selection = load_selection(search, name)
        cuts[name] = cut(job.parent, selection, path)
        errors[name] = verify_logits(job.parent, cuts[name], selection, tokens, job.device)
        say(
            f"prune: {path}  {cuts[name].parameters:,} parameters, {cuts[name].bytes:,} bytes as planned; "
            f"masked parent and file differ by {errors[name]:.1e} of the largest logit"
        )
    job.run.mark("prune", key, logit_error=errors)
    return cuts
