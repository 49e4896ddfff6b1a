"""minipuzzle score: every block, FFN channel and head on calibration text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import (
    RUN,
    Device,
    Json,
    Length,
    Run,
    command,
    make_job,
    out,
    print_json,
)
from minipuzzle.settings import Data, ScoreSettings

OURS = ScoreSettings()


def score(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint (default: the run's).")
    ] = None,
    run: Run = RUN,
    data: Annotated[str, typer.Option(help="Calibration text.")] = Data.calibration,
    samples: Annotated[
        int, typer.Option(help="Blocks of text for FFN channels and Mamba heads.")
    ] = OURS.samples,
    block_samples: Annotated[
        int, typer.Option(help="Blocks of text for removing whole blocks.")
    ] = OURS.block_samples,
    batch: int = OURS.batch,
    estimator: Annotated[
        str, typer.Option(help="How channels and heads are scored; names below.")
    ] = OURS.estimator,
    metric: Annotated[
        str, typer.Option(help="What removing a block is measured by; names below.")
    ] = OURS.metric,
    curves: Annotated[
        bool, typer.Option(help="Also narrow each block to some sizes.")
    ] = OURS.curves,
    iterative: Annotated[
        int, typer.Option(help="Remove this many blocks one by one, scoring again.")
    ] = OURS.iterative,
    seed: int = OURS.seed,
    length: Length = Data.length,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score every block, FFN channel and head on calibration text, with one block in memory at a
    time.
    """
    settings = ScoreSettings(
        samples=samples,
        block_samples=block_samples,
        batch=batch,
        estimator=estimator,
        curves=curves,
        metric=metric,
        iterative=iterative,
        seed=seed,
    )
    with command(run):
        from minipuzzle.report.tables import scores_table
        from minipuzzle.runs.score import run_score

        job = make_job(run, checkpoint, Data(calibration=data, length=length), device)
        scores = run_score(job, settings)
        if as_json:
            print_json(
                {
                    "file": str(run / "scores.safetensors"),
                    "blocks": scores.blocks.tolist(),
                    "meta": scores.meta,
                }
            )
        else:
            out.print(scores_table(job.parent.architecture.pattern, scores))
            out.print(
                f"scores: {run / 'scores.safetensors'}    next: minipuzzle search --budget 83%"
            )
