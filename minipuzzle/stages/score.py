"""Stage score: run/scores.safetensors."""

from __future__ import annotations

from dataclasses import asdict

from minipuzzle.artifacts import Scores, fingerprint
from minipuzzle.distill import mixed_precision
from minipuzzle.importance import score, work
from minipuzzle.progress import progress_bar
from minipuzzle.recipe import ScoreSettings
from minipuzzle.stages.job import Job, say

FILE = "scores.safetensors"


def run_score(job: Job, settings: ScoreSettings) -> Scores:
    """Score the parent on the calibration text, or take the scores that are there for the same inputs."""
    blocks = job.text("calibration")
    key = fingerprint(job.parent.fingerprint, asdict(settings), blocks.fingerprint)
    path, partial = job.run / FILE, job.run / "scores.partial.safetensors"
    if job.run.is_done("score", key) and path.exists():
        say(f"score: nothing changed, kept {path}")
        return Scores.load(path)
    model = job.parent_model
    with progress_bar("score", work(settings, len(blocks)), "batches") as bar, mixed_precision(job.device):
        scores = score(
            model, blocks, settings, identity=job.parent.fingerprint, partial=partial, advance=bar.advance
        )
    scores.meta["parent"] = job.parent.fingerprint
    scores.save(path)
    job.run.mark("score", key, file=FILE)
    partial.unlink(missing_ok=True)
    return scores
