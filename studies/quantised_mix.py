"""A mix of formats that search chooses: nothing cut, `search --bits --method solver`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle.memory import Workload, resident
from minipuzzle.runs.job import Job
from minipuzzle.runs.score import run_score
from minipuzzle.runs.search import run_search
from minipuzzle.settings import ScoreSettings, SearchSettings

FORMATS = "int4-64,mxfp4,int4-32,nvfp4,fp8"
KEPT = ("mamba=100%", "attention=100%", "others=100%", "width=100%", "hidden=100%")


def mixed(
    job: Job, limit: int, score: Mapping[str, Any], search: Mapping[str, Any]
) -> tuple[str, ...]:
    """The formats of the blocks of the job's model in at most ``limit`` bytes of file; settings of
    ``score`` and ``search`` beside those.
    """
    run_score(
        job, ScoreSettings(bits=FORMATS, curves=False, block_samples=score["samples"], **score)
    )
    caches = resident(job.parent.architecture, Workload(context=1))
    # a cache of one token, and the recurrence's, are in a search's budget too
    budget = limit + caches.total - caches["weights"]
    settings = SearchSettings(
        budget=(f"memory={budget // 1000}.{budget % 1000:03}kB",),
        bits=f"{FORMATS},bf16",
        context=1,
        method="solver",
        min_keep=KEPT,
        top=1,
        **search,
    )
    result = run_search(job, settings)
    formats = result.selections[result.candidates[0].name].formats
    assert formats is not None
    return formats
