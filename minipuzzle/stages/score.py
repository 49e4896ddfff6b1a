"""Stage score: run/scores.safetensors."""

from __future__ import annotations

import shutil
from dataclasses import asdict

from minipuzzle.artifacts import Scores, fingerprint
from minipuzzle.importance import score, work
from minipuzzle.progress import progress_bar
from minipuzzle.recipe import ScoreSettings
from minipuzzle.stages.job import Job, say

FILE = "scores.safetensors"


def run_score(job: Job, settings: ScoreSettings) -> Scores:
    """Score the parent on the calibration text, or take the scores that are there for the same inputs.

    Under torchrun every process computes its share of the samples, and the first one writes.
    """
    blocks = job.text("calibration")
    key = fingerprint(job.parent.fingerprint, asdict(settings), blocks.fingerprint)
    path, partial = job.run / FILE, job.run / "scores.partial"
    if job.run.is_done("score", key) and path.exists():
        say(f"score: nothing changed, kept {path}")
        return Scores.load(path)
    say(f"kernels: {job.kernels.name} ({job.kernels.reason})")
    total = work(settings, job.parent.architecture, len(blocks))
    with progress_bar("score", total, "samples x blocks") as bar:
        scores = score(job.parent, blocks, settings, device=job.device, partial=partial, say=say, advance=bar.advance)
    scores.meta["parent"] = job.parent.fingerprint
    if job.run.writes:
        scores.save(path)
        job.run.mark("score", key, file=FILE)
        shutil.rmtree(partial, ignore_errors=True)
    return scores
