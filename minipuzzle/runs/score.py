"""Stage score: run/scores.safetensors."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress

from minipuzzle.bars import progress_bar
from minipuzzle.identity import fingerprint
from minipuzzle.importance import score, work
from minipuzzle.importance.amount import one_by_one_sentence
from minipuzzle.importance.bits import measured_formats
from minipuzzle.interrupt import interrupt
from minipuzzle.ranks import ranks
from minipuzzle.records import Scored
from minipuzzle.runs.job import Job
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings

log = logging.getLogger(__name__)

FILE = "scores.safetensors"
PARTIAL = "scores.partial"


def run_score(job: Job, settings: ScoreSettings) -> Scores:
    """Score the parent on the calibration text, or take the scores that are there for the same
    inputs.

    Under torchrun every process computes its share of the samples, and the first one writes. What a
    killed or stopped scoring goes on from lies in run/scores.partial/<key of its inputs>, so that
    other settings touch none of it.
    """
    with job.run.locked(), ranks(job.device) as group:
        blocks = job.text("calibration")
        key = fingerprint(job.parent.fingerprint, settings.identity(), blocks.fingerprint)
        path = job.run / FILE
        if job.run.is_done("score", key) and path.exists():
            log.info(f"score: nothing changed, kept {path}")
            _forget(job, key)
            return Scores.load(path)
        log.info(f"kernels: {job.kernels.describe(job.parent.architecture.blocks)}")
        if others := sorted(p for p in (job.run / PARTIAL).glob("*") if p.name != key):
            log.info(
                f"score: {len(others)} unfinished with other settings stay in {job.run / PARTIAL};"
                " delete them, or go on with those settings"
            )
        if said := one_by_one_sentence(settings, job.parent.architecture, len(blocks)):
            log.info(f"score: {said}")
        formats = measured_formats(job.parent, settings)
        total = work(settings, job.parent.architecture, len(blocks), formats)
        with interrupt(group), progress_bar("score", total, "samples x blocks") as bar:
            scores = score(
                job.parent,
                blocks,
                settings,
                device=job.device,
                partial=job.run / PARTIAL / key,
                progress=bar,
            )
            scores.meta["parent"] = job.parent.fingerprint
            if job.run.writes:
                job.run.unmark("score")
                scores.save(path)
                job.run.mark(Scored(key=key, file=FILE))
        _forget(job, key)
        return scores


def _forget(job: Job, key: str) -> None:
    """Remove what the finished scoring could have gone on from; done again where a kill came
    between.
    """
    if job.run.writes:
        shutil.rmtree(job.run / PARTIAL / key, ignore_errors=True)
        with suppress(OSError):  # not there, or with other settings' in it
            (job.run / PARTIAL).rmdir()
